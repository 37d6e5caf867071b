"""The built-in transports. They are plugins like everyone's, found by entry point."""

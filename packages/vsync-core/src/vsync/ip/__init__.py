"""For transports over IP: this machine's interfaces, options of sockets, segmentation offload."""

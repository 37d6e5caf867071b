"""The quorum: which configuration is primary, and may act for the whole.

``decision`` has the rule and nothing else; ``service`` brings it to the nodes of a ring.
"""

"""A ring over InfiniBand or RoCE: unreliable datagrams through verbs, or RoCEv2 in user space."""

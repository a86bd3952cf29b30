//! Pure domain: what a node, a network and a pod are. No I/O, no kernel types.

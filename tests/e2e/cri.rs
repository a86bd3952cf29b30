//! containerd's CRI plugin.

//! Netlink, namespaces, pod links and sysctls.

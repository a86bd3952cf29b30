//! Where desired state is kept.

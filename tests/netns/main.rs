//! Tier netns.

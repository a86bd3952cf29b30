//! `cargo xtask lint`.
use anyhow::Result;
/// Checks.
pub(crate) fn lint() -> Result<()> {
    Ok(())
}

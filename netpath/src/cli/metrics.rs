//! `netpath metrics`.

use super::{Global, output::print, wait};

pub(super) fn run(global: &Global) -> anyhow::Result<()> {
    print(&wait(global.client().metrics())?)
}

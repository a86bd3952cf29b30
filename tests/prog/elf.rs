//! The object as a whole.

use netpath::datapath::{Datapath, PROGRAMS, SOCKET_HOOKS, TABLES};
use netpath_tests::scene::Scene;

use crate::stack;

/// Instructions the verifier may need for a program; the kernel's limit is a million.
const VERIFIED_LIMIT: u32 = 100_000;
/// The same while flows move: every look at a flow is at two tables.
const MOVING_LIMIT: u32 = 300_000;

/// Bytes of stack that a program's deepest chain of calls may take; the kernel's limit is 512.
const STACK_LIMIT: u64 = 480;

/// Every program and table of the object has its row in userspace, and the other way round.
#[test]
fn every_program_and_table_has_a_row() {
    let object = object::programs_and_maps();
    let names = PROGRAMS.iter().map(|program| program.name()).chain(SOCKET_HOOKS);
    let mut programs: Vec<_> = names.map(str::to_owned).collect();
    let mut tables: Vec<_> = TABLES.iter().map(|table| table.name.to_owned()).collect();
    programs.sort();
    tables.sort();
    assert_eq!(object, (programs, tables));
}

#[test]
fn programs_stay_within_the_verifier_budget() {
    let mut scene = Scene::new();
    within_budget(&mut scene.datapath, VERIFIED_LIMIT);
    let mut dry_run = scene.datapath.dry_run();
    for program in PROGRAMS.into_iter().filter(|program| !program.is_xdp()) {
        let traced = dry_run.program(program).expect("program of a trace").info().expect("info");
        let verified = traced.verified_instruction_count().expect("kernel 5.16 and later tell");
        println!("{:<12} {verified:>6} instructions verified for a trace", program.name());
        assert!(verified < VERIFIED_LIMIT, "{} needs {verified} instructions for a trace", program.name());
    }
}

/// Those that an upgrade runs for a moment look into two tables.
#[test]
fn programs_that_move_flows_stay_within_the_verifier_budget() {
    let scene = Scene::new();
    let mut moving = scene.load_again(4096);
    assert!(moving.is_moving());
    within_budget(&mut moving, MOVING_LIMIT);
}

fn within_budget(datapath: &mut Datapath, limit: u32) {
    let stacks = stack::deepest(netpath::datapath::ELF);
    let mut infos = Vec::new();
    for program in PROGRAMS {
        let info = match program.is_xdp() {
            true => datapath.xdp_program(program).expect("program").info(),
            false => datapath.program(program).expect("program").info(),
        };
        infos.push((program.name(), info));
    }
    for name in SOCKET_HOOKS {
        infos.push((name, datapath.socket_hook(name).expect("hook").info()));
    }
    for (name, info) in infos {
        let info = info.expect("info");
        let verified = info.verified_instruction_count().expect("kernel 5.16 and later tell");
        let (stack, chain) = &stacks[name];
        println!(
            "{name:<14} {verified:>6} instructions verified, {:>6} bytes, {stack} bytes of stack: {chain}",
            info.size_jitted()
        );
        assert!(verified < limit, "{name} needs {verified} instructions");
        assert!(*stack <= STACK_LIMIT, "{name} needs {stack} bytes of stack: {chain}");
    }
}

mod object {
    /// Names of programs and maps in the object, sorted; `.rodata` is the compiler's.
    pub(super) fn programs_and_maps() -> (Vec<String>, Vec<String>) {
        netpath_tests::namespace::isolate();
        let object = aya::EbpfLoader::new().load(netpath::datapath::ELF).expect("object");
        let mut programs: Vec<_> = object.programs().map(|(name, _)| name.to_owned()).collect();
        let mut maps: Vec<_> =
            object.maps().map(|(name, _)| name.to_owned()).filter(|name| !name.starts_with('.')).collect();
        programs.sort();
        maps.sort();
        (programs, maps)
    }
}

//! The object as a whole.

use netpath::datapath::{PROGRAMS, TABLES};
use netpath_tests::scene::Scene;

use crate::stack;

/// Instructions the verifier may need for a program; the kernel's limit is a million.
const VERIFIED_LIMIT: u32 = 100_000;

/// Bytes of stack that a program's deepest chain of calls may take; the kernel's limit is 512.
const STACK_LIMIT: u64 = 480;

/// Every program and table of the object has its row in userspace, and the other way round.
#[test]
fn every_program_and_table_has_a_row() {
    let object = object::programs_and_maps();
    let mut programs: Vec<_> = PROGRAMS.iter().map(|program| program.name().to_owned()).collect();
    let mut tables: Vec<_> = TABLES.iter().map(|table| table.name.to_owned()).collect();
    programs.sort();
    tables.sort();
    assert_eq!(object, (programs, tables));
}

#[test]
fn programs_stay_within_the_verifier_budget() {
    let scene = Scene::new();
    let stacks = stack::deepest(netpath::datapath::ELF);
    let mut dry_run = scene.datapath.dry_run();
    for program in PROGRAMS {
        let attached = scene.datapath.program(program).expect("program").info().expect("info");
        let traced = dry_run.program(program).expect("program of a trace").info().expect("info");
        let (stack, chain) = &stacks[program.name()];
        for (variant, info) in [("", attached), ("of a trace", traced)] {
            let verified = info.verified_instruction_count().expect("kernel 5.16 and later tell");
            println!(
                "{:<12} {variant:<10} {verified:>6} instructions verified, {:>6} bytes",
                program.name(),
                info.size_jitted()
            );
            assert!(verified < VERIFIED_LIMIT, "{} {variant} needs {verified} instructions", program.name());
        }
        println!("{:<12} {stack} bytes of stack: {chain}", program.name());
        assert!(*stack <= STACK_LIMIT, "{} needs {stack} bytes of stack: {chain}", program.name());
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

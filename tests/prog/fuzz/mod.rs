//! Malformed input: whatever a packet is, every program ends with a defined verdict, counts what it drops, passes on
//! nothing invalid and leaks nothing.
//!
//! `cargo xtask fuzz` runs for longer and with other seeds. What it finds is printed as lines of a corpus file: put them
//! into `tests/corpus`, where every run begins with them.

mod corpus;
mod exits;
mod hunt;
mod mutate;
mod oracle;
mod published;
mod step;
mod view;

use std::{env, time::Instant};

use hunt::{Hunt, Setting};
use netpath_tests::{random::Random, scene::Scene};

/// Runs of each of CI's two seeds.
const RUNS: u64 = 200_000;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

fn fuzz(seed: u64, runs: u64) {
    println!("seed {seed}, {runs} runs");
    let (start, mut hunt) = (Instant::now(), Hunt::new(seed));
    if let Err(found) = hunt.run(runs) {
        panic!("seed {seed}: {found}");
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{runs} runs in {seconds:.1} s, {}", hunt.summary());
}

#[test]
fn fuzz_from_a_fixed_seed() {
    fuzz(0x6e70, RUNS);
}

/// Also what `cargo xtask fuzz` runs, for longer or from a seed of its own.
#[test]
fn fuzz_from_a_new_seed() {
    fuzz(Random::seed("NETPATH_FUZZ_SEED"), number("NETPATH_FUZZ_RUNS").unwrap_or(RUNS));
}

/// The corpus as it stands, in every setting: what was found once is not found again.
#[test]
fn fuzz_corpus_alone() {
    let mut hunt = Hunt::new(0);
    for setting in Setting::ALL {
        for sequence in corpus::read() {
            if let Err(found) = hunt.replay(setting, &sequence.steps) {
                panic!("{} with {setting:?}: {found}", sequence.name);
            }
        }
    }
}

/// The files of valid packets are what the builders make; NETPATH_FUZZ_WRITE writes them anew.
#[test]
fn fuzz_corpus_is_what_the_builders_make() {
    let scene = Scene::new();
    if env::var_os("NETPATH_FUZZ_WRITE").is_some() {
        corpus::write(&scene);
    }
    let files = corpus::read();
    for built in corpus::build(&scene) {
        let file = files.iter().find(|file| file.name == built.name);
        let file = file.unwrap_or_else(|| panic!("no file {}.hex", built.name));
        let lines = |steps: &[step::Step]| steps.iter().map(step::Step::line).collect::<Vec<_>>();
        assert!(lines(&file.steps) == lines(&built.steps), "{}.hex is not as built", built.name);
    }
}

//! How deep the programs' stack gets, from the object: the kernel tells it only when it refuses.
//!
//! As `check_max_stack_depth` (kernel/bpf/verifier.c) adds it up: a frame for each function on the longest chain of calls,
//! callbacks of helpers as calls, each frame rounded up. Compared once with the kernel's own figures: with an array of
//! 128 bytes kept alive in `from_pod` (`black_box`) the load fails, and the verifier's log ends in "stack depth" and each
//! function's bytes, 352+56+56+64+40+240+…: all as found here.

use std::collections::{BTreeMap, HashMap};

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SymbolKind,
};

/// Older kernels round a frame to 32 bytes; 6.18 rounds to 16 where programs are compiled to machine code.
const ROUNDING: u64 = 32;

/// A function: its section, and where it starts there.
type Place = (SectionIndex, u64);

#[derive(Debug, Default)]
struct Function {
    name: String,
    frame: u64,
    calls: Vec<Place>,
}

/// The longest chain of calls from each function, with names and frames, by the function's name.
pub(crate) fn deepest(elf: &[u8]) -> BTreeMap<String, (u64, String)> {
    let functions = functions(elf);
    let depth = |place: &Place| {
        let chain = chain(&functions, *place);
        let total = total(&chain);
        let shown: Vec<_> =
            chain.iter().map(|function| format!("{} {}", short(&function.name), function.frame)).collect();
        (total, shown.join(" > "))
    };
    functions.iter().map(|(place, function)| (function.name.clone(), depth(place))).collect()
}

/// The deepest chain that starts here. No function calls itself: the verifier refuses that.
fn chain(functions: &HashMap<Place, Function>, place: Place) -> Vec<&Function> {
    let function = functions.get(&place).unwrap_or_else(|| panic!("no function at {place:?}"));
    let below =
        function.calls.iter().map(|callee| chain(functions, *callee)).max_by_key(|below| total(below));
    std::iter::once(function).chain(below.unwrap_or_default()).collect()
}

/// What the kernel adds up for a chain.
fn total(chain: &[&Function]) -> u64 {
    chain.iter().map(|function| function.frame.max(1).next_multiple_of(ROUNDING)).sum()
}

/// A mangled name without the crate's.
fn short(name: &str) -> &str {
    name.split_once("netpath_ebpf").map_or(name, |(_, path)| path)
}

fn functions(elf: &[u8]) -> HashMap<Place, Function> {
    let file = object::File::parse(elf).expect("ELF");
    let code = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0);
    code.map(|symbol| {
        let section = symbol.section_index().expect("a function's section");
        ((section, symbol.address()), function(&file, section, &symbol))
    })
    .collect()
}

fn function(file: &object::File<'_>, section: SectionIndex, symbol: &object::Symbol<'_, '_>) -> Function {
    let data = file.section_by_index(section).expect("section");
    let is_code = |place: &Place| {
        file.section_by_index(place.0).is_ok_and(|section| section.kind() == object::SectionKind::Text)
    };
    let named = |relocation: &object::Relocation| -> Option<Place> {
        let RelocationTarget::Symbol(index) = relocation.target() else { return None };
        let symbol = file.symbol_by_index(index).ok()?;
        Some((symbol.section_index()?, symbol.address())).filter(is_code)
    };
    let relocations = data.relocations().filter_map(|(at, relocation)| Some((at, named(&relocation)?)));
    let targets: HashMap<u64, Place> = relocations.collect();
    let bytes = data.data().expect("code");
    let mut function = Function { name: symbol.name().expect("name").to_owned(), ..Function::default() };
    let (mut copies, mut at) = ([false; 11], symbol.address());
    while at < symbol.address() + symbol.size() {
        let instruction = Instruction::read(&bytes[at as usize..]);
        function.frame = function.frame.max(instruction.reaches(&mut copies));
        function.calls.extend(instruction.calls(at, section, targets.get(&at).copied()));
        at += if instruction.code == LOAD_IMMEDIATE { 16 } else { 8 };
    }
    function
}

/// `rX = imm64`, two slots long; of a function it is a callback.
const LOAD_IMMEDIATE: u8 = 0x18;
const CALL: u8 = 0x85;
/// `rX = rY`, `rX += imm`, in 64 bits.
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
/// The frame's end.
const FRAME: u8 = 10;

/// A BPF instruction (RFC 9669, 3).
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn read(bytes: &[u8]) -> Self {
        let [code, registers, o0, o1, i0, i1, i2, i3, ..] = *bytes else { panic!("cut instruction") };
        Self {
            code,
            destination: registers & 15,
            source: registers >> 4,
            offset: i16::from_le_bytes([o0, o1]),
            immediate: i32::from_le_bytes([i0, i1, i2, i3]),
        }
    }

    /// How far below the frame's end it reaches, or points; `copies` are the registers that hold the frame's end.
    fn reaches(&self, copies: &mut [bool; 11]) -> u64 {
        let copy = std::mem::take(&mut copies[usize::from(self.destination)]);
        let below = |offset: i64| u64::try_from(-offset).unwrap_or(0);
        match self.code & 7 {
            // Load to a register; stores; read-modify-write.
            1 if self.source == FRAME => below(self.offset.into()),
            2 | 3 => {
                copies[usize::from(self.destination)] = copy;
                if self.destination == FRAME { below(self.offset.into()) } else { 0 }
            }
            _ if self.code == MOVE && self.source == FRAME && self.offset == 0 => {
                copies[usize::from(self.destination)] = true;
                0
            }
            _ if self.code == ADD && copy => below(self.immediate.into()),
            _ => 0,
        }
    }

    /// What it calls, or hands to a helper to call; `target` is the code that its relocation names.
    fn calls(&self, at: u64, section: SectionIndex, target: Option<Place>) -> Option<Place> {
        let words = |immediate: i32| (i64::from(immediate) + 1) * 8;
        let moved = |start: u64, by: i64| u64::try_from(start as i64 + by).expect("a place in the section");
        match (self.code, target) {
            // The linker leaves an addend: in instructions of a call, in bytes of a load.
            (CALL, Some((section, start))) => Some((section, moved(start, words(self.immediate)))),
            (CALL, None) if self.source == 1 => Some((section, moved(at, words(self.immediate)))),
            (LOAD_IMMEDIATE, Some((section, start))) => Some((section, moved(start, self.immediate.into()))),
            _ => None,
        }
    }
}

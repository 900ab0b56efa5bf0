//! A filter that decides the same with a quarter of the instructions. Pure.
//!
//! libseccomp asks for each allowed call by its number. Nearly all calls next to each other have the same answer, so a tree
//! over *ranges* of numbers is much shorter. The kernel pays for the length with every container: it checks and
//! translates the whole program, and runs it once for each call that exists to know which are always allowed.
//!
//! The ranges are not taken from the rules but from the program: it is run for each architecture and number that it
//! compares with, and the numbers just after those, until it answers or looks at an argument. Between two such numbers every
//! comparison comes out the same. What looks at arguments is kept as it is. A program that does anything else is
//! left alone.

use std::collections::{BTreeMap, BTreeSet};

/// The kernel's `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    /// Instructions to skip if the comparison holds.
    jt: u8,
    /// Instructions to skip if it does not.
    jf: u8,
    k: u32,
}

// BPF_LD | BPF_W | BPF_ABS, BPF_JMP | …, BPF_RET | BPF_K of linux/bpf_common.h.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const IF_BITS: u16 = 0x45;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// Where a program finds things: offsets in the kernel's `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// From here on: the instruction pointer and the arguments.
const REST: u32 = 8;

/// What a program comes to when it knows architecture and number of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Answer(u32),
    /// Looks at an argument, at this instruction.
    Look(usize),
}

/// The same program, shorter; `None` if it cannot be made shorter, or does what this does not know.
pub(super) fn shorten(program: &[u8]) -> Option<Vec<u8>> {
    let old = decode(program)?;
    let new = rewrite(&old)?;
    (new.len() < old.len()).then(|| encode(&new))
}

fn rewrite(old: &[Instruction]) -> Option<Vec<Instruction>> {
    let architectures = architectures(old)?;
    let points = points(
        old.iter()
            .filter(|one| is_comparison(one.code))
            .map(|one| one.k),
    );
    let mut new = Writer::new(old);
    let any_other = (0..).find(|one| !architectures.contains(one))?;
    let mut entry = new.section(&runs(old, any_other, &points)?)?;
    for architecture in architectures {
        let section = new.section(&runs(old, architecture, &points)?)?;
        entry = new.branch(IF_EQUAL, architecture, section, entry)?;
    }
    new.load(ARCHITECTURE, entry)?;
    Some(new.finish())
}

fn decode(program: &[u8]) -> Option<Vec<Instruction>> {
    let (all, rest) = program.as_chunks::<8>();
    let all = all
        .iter()
        .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| Instruction {
            code: u16::from_ne_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        });
    rest.is_empty().then(|| all.collect())
}

fn encode(program: &[Instruction]) -> Vec<u8> {
    let bytes = program.iter().flat_map(|one| {
        let ([c0, c1], [k0, k1, k2, k3]) = (one.code.to_ne_bytes(), one.k.to_ne_bytes());
        [c0, c1, one.jt, one.jf, k0, k1, k2, k3]
    });
    bytes.collect()
}

fn is_comparison(code: u16) -> bool {
    matches!(code, IF_EQUAL | IF_GREATER | IF_AT_LEAST | IF_BITS)
}

/// Where it goes on, whatever the comparison says.
fn next(at: usize, one: Instruction) -> Option<Vec<usize>> {
    match one.code {
        LOAD | AND => Some(vec![at + 1]),
        JUMP => Some(vec![at + 1 + usize::try_from(one.k).ok()?]),
        RETURN => Some(vec![]),
        code if is_comparison(code) => Some(vec![
            at + 1 + usize::from(one.jt),
            at + 1 + usize::from(one.jf),
        ]),
        _ => None,
    }
}

/// All that can be reached from there.
fn reachable(program: &[Instruction], from: usize) -> Option<BTreeSet<usize>> {
    let (mut found, mut left) = (BTreeSet::new(), vec![from]);
    while let Some(at) = left.pop() {
        if found.insert(at) {
            left.extend(next(at, *program.get(at)?)?);
        }
    }
    Some(found)
}

/// The architectures that it knows. It has to ask for each by its number.
fn architectures(program: &[Instruction]) -> Option<BTreeSet<u32>> {
    let first = program.first()?;
    if (first.code, first.k) != (LOAD, ARCHITECTURE) {
        return None;
    }
    let (mut found, mut seen, mut left) = (BTreeSet::new(), BTreeSet::new(), vec![1]);
    while let Some(at) = left.pop() {
        let one = *program.get(at)?;
        match one.code {
            IF_EQUAL => {
                found.insert(one.k);
            }
            JUMP => {}
            // From here on it compares something else.
            LOAD | RETURN => continue,
            _ => return None,
        }
        if seen.insert(at) {
            left.extend(next(at, one)?);
        }
    }
    Some(found)
}

/// 0, the constants, and the numbers just after them: between two of these no comparison changes.
fn points(constants: impl Iterator<Item = u32>) -> BTreeSet<u32> {
    let both = constants.flat_map(|k| [Some(k), k.checked_add(1)]);
    both.flatten().chain([0]).collect()
}

/// Where ranges of numbers with one outcome begin; the first at 0.
fn runs(
    program: &[Instruction],
    architecture: u32,
    points: &BTreeSet<u32>,
) -> Option<Vec<(u32, Outcome)>> {
    let mut runs: Vec<(u32, Outcome)> = Vec::new();
    for &point in points {
        let outcome = run(program, architecture, point)?;
        if runs.last().is_none_or(|&(_, last)| last != outcome) {
            runs.push((point, outcome));
        }
    }
    Some(runs)
}

fn run(program: &[Instruction], architecture: u32, number: u32) -> Option<Outcome> {
    let (mut at, mut value) = (0, 0);
    loop {
        let one = *program.get(at)?;
        at += 1;
        let holds = match one.code {
            LOAD if one.k == NUMBER => {
                value = number;
                continue;
            }
            LOAD if one.k == ARCHITECTURE => {
                value = architecture;
                continue;
            }
            LOAD if one.k >= REST => return Some(Outcome::Look(at - 1)),
            RETURN => return Some(Outcome::Answer(one.k)),
            JUMP => {
                at += usize::try_from(one.k).ok()?;
                continue;
            }
            IF_EQUAL => value == one.k,
            IF_GREATER => value > one.k,
            IF_AT_LEAST => value >= one.k,
            // Of a number it does not split the numbers in ranges.
            _ => return None,
        };
        at += usize::from(if holds { one.jt } else { one.jf });
    }
}

/// Writes a program from its end, as all jumps lead forward. A *place* counts from the end.
struct Writer<'a> {
    old: &'a [Instruction],
    backwards: Vec<Instruction>,
    /// Where an outcome was written last.
    written: BTreeMap<Outcome, usize>,
}

impl<'a> Writer<'a> {
    fn new(old: &'a [Instruction]) -> Self {
        Self {
            old,
            backwards: Vec::new(),
            written: BTreeMap::new(),
        }
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.backwards.push(Instruction { code, jt, jf, k });
        self.backwards.len() - 1
    }

    /// What the next instruction to be written has to skip to get there.
    fn distance(&self, place: usize) -> usize {
        self.backwards.len() - 1 - place
    }

    /// Loads what is there, and goes on at this place.
    fn load(&mut self, offset: u32, then: usize) -> Option<usize> {
        self.jump(then)?;
        Some(self.push(LOAD, 0, 0, offset))
    }

    /// What is written next falls through to this place.
    fn jump(&mut self, to: usize) -> Option<()> {
        if self.distance(to) > 0 {
            let k = u32::try_from(self.distance(to)).ok()?;
            self.push(JUMP, 0, 0, k);
        }
        Some(())
    }

    /// A comparison and where it leads; what is too far for its eight bits is reached by a jump on the way.
    fn branch(&mut self, code: u16, k: u32, mut yes: usize, mut no: usize) -> Option<usize> {
        loop {
            let far = if yes < no { &mut yes } else { &mut no };
            let distance = self.backwards.len() - 1 - *far;
            if distance <= usize::from(u8::MAX) {
                break;
            }
            *far = self.backwards.len();
            self.push(JUMP, 0, 0, u32::try_from(distance).ok()?);
        }
        let jt = u8::try_from(self.distance(yes)).ok()?;
        let jf = u8::try_from(self.distance(no)).ok()?;
        Some(self.push(code, jt, jf, k))
    }

    /// Finds the outcome for a number. Returns where it begins.
    fn section(&mut self, runs: &[(u32, Outcome)]) -> Option<usize> {
        for (_, outcome) in runs {
            self.outcome(*outcome)?;
        }
        let tree = self.tree(runs)?;
        self.load(NUMBER, tree)
    }

    fn tree(&mut self, runs: &[(u32, Outcome)]) -> Option<usize> {
        let (low, high) = runs.split_at(runs.len() / 2);
        match (low, high) {
            ([], [(_, outcome)]) => self.outcome(*outcome),
            (_, [(start, _), ..]) => {
                let at_least = self.tree(high)?;
                let less = self.tree(low)?;
                self.branch(IF_AT_LEAST, *start, at_least, less)
            }
            (_, []) => None,
        }
    }

    fn outcome(&mut self, outcome: Outcome) -> Option<usize> {
        let written = self.written.get(&outcome).copied();
        let place = match (outcome, written) {
            (Outcome::Answer(answer), near) => {
                match near.filter(|&place| self.distance(place) < usize::from(u8::MAX) / 2) {
                    Some(place) => place,
                    None => self.push(RETURN, 0, 0, answer),
                }
            }
            (Outcome::Look(_), Some(place)) => place,
            (Outcome::Look(at), None) => self.copy(at)?,
        };
        self.written.insert(outcome, place);
        Some(place)
    }

    /// Writes all that can be reached from there, in its order; so nothing gets farther from anything.
    fn copy(&mut self, from: usize) -> Option<usize> {
        let mut places = BTreeMap::new();
        for at in reachable(self.old, from)?.into_iter().rev() {
            let one = *self.old.get(at)?;
            let mut targets = next(at, one)?
                .into_iter()
                .map(|at| places.get(&at).copied());
            let place = match one.code {
                RETURN => self.push(RETURN, 0, 0, one.k),
                // What it leads to is the place itself.
                JUMP => targets.next()??,
                code if is_comparison(code) => {
                    let (yes, no) = (targets.next()??, targets.next()??);
                    self.branch(code, one.k, yes, no)?
                }
                code => {
                    self.jump(targets.next()??)?;
                    self.push(code, 0, 0, one.k)
                }
            };
            places.insert(at, place);
        }
        places.get(&from).copied()
    }

    fn finish(mut self) -> Vec<Instruction> {
        self.backwards.reverse();
        self.backwards
    }
}

#[cfg(test)]
mod tests;

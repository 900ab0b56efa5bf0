//! Old and new program are run side by side, by an interpreter that knows nothing of ranges.

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};

use super::*;
use crate::seccomp::{Filter, export, set_up};

/// What the program sees: number, architecture, instruction pointer, six arguments; in words of 32 bits.
type Call = [u32; 16];

fn answer(program: &[Instruction], call: &Call) -> u32 {
    let (mut at, mut value) = (0, 0);
    loop {
        let one = program[at];
        at += 1;
        let holds = match one.code {
            LOAD => {
                value = call[one.k as usize / 4];
                continue;
            }
            AND => {
                value &= one.k;
                continue;
            }
            JUMP => {
                at += one.k as usize;
                continue;
            }
            RETURN => return one.k,
            IF_EQUAL => value == one.k,
            IF_GREATER => value > one.k,
            IF_AT_LEAST => value >= one.k,
            IF_BITS => value & one.k != 0,
            code => panic!("instruction {code:#x}"),
        };
        at += usize::from(if holds { one.jt } else { one.jf });
    }
}

/// A generator that needs no library: splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.next() % all.len() as u64) as usize]
    }
}

/// Every number of a call that there is, those beside all constants, and arguments around all constants: the same answers.
fn check_same(old: &[u8], new: &[u8], dice: &mut Dice) {
    let (old, new) = (decode(old).unwrap(), decode(new).unwrap());
    let mut words: Vec<u32> = old
        .iter()
        .chain(&new)
        .flat_map(|one| [one.k.wrapping_sub(1), one.k, one.k.wrapping_add(1)])
        .collect();
    words.sort_unstable();
    words.dedup();
    let numbers = (0..600)
        .chain(0x4000_0000..0x4000_0300)
        .chain(words.iter().copied());
    let mut kinds: Vec<u32> = architectures(&old).unwrap().into_iter().collect();
    kinds.extend([0, 1, u32::MAX, dice.next() as u32]);
    for number in numbers.collect::<Vec<_>>() {
        for &architecture in &kinds {
            for _ in 0..4 {
                let mut call: Call = std::array::from_fn(|_| match dice.next() % 3 {
                    0 => 0,
                    1 => dice.of(&words),
                    _ => dice.next() as u32,
                });
                (call[0], call[1]) = (number, architecture);
                assert_eq!(answer(&old, &call), answer(&new, &call), "{call:x?}");
            }
        }
    }
}

fn compiled(filter: &Filter) -> (Vec<u8>, Vec<u8>) {
    let old = export(&filter.rules().unwrap()).unwrap();
    let new = shorten(&old).unwrap();
    (old, new)
}

#[test]
fn the_default_filter_is_much_shorter_and_answers_the_same() {
    for capabilities in [&["CHOWN", "SYS_CHROOT"][..], &["SYS_ADMIN", "SYS_TIME"][..]] {
        let filter = Filter {
            capabilities: capabilities.iter().map(|one| (*one).to_owned()).collect(),
            profile: None,
        };
        let (old, new) = compiled(&filter);
        println!("{} instructions, were {}", new.len() / 8, old.len() / 8);
        assert!(new.len() * 3 < old.len(), "{} of {}", new.len(), old.len());
        check_same(&old, &new, &mut Dice(1));
    }
}

#[test]
fn whatever_the_rules_are_the_answers_are_the_same() {
    let mut n_shorter = 0;
    let mut n_looking = 0;
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let actions = [
            ScmpAction::Allow,
            ScmpAction::Errno(1),
            ScmpAction::Errno(38),
            ScmpAction::KillProcess,
            ScmpAction::Log,
        ];
        let default = dice.of(&actions);
        let mut filter = ScmpFilterContext::new(default).unwrap();
        if seed % 2 == 0 && cfg!(target_arch = "x86_64") {
            filter.add_arch(ScmpArch::X86).unwrap();
            filter.add_arch(ScmpArch::X32).unwrap();
        }
        set_up(&mut filter).unwrap();
        for _ in 0..dice.next() % 40 {
            let operations = [
                ScmpCompareOp::Equal,
                ScmpCompareOp::NotEqual,
                ScmpCompareOp::Greater,
                ScmpCompareOp::LessOrEqual,
                ScmpCompareOp::MaskedEqual(dice.next() >> (dice.next() % 64)),
            ];
            let datum = dice.next() >> (dice.next() % 64);
            let compare =
                ScmpArgCompare::new((dice.next() % 6) as u32, dice.of(&operations), datum);
            let (action, conditional) = (dice.of(&actions), dice.next().is_multiple_of(3));
            let first = dice.next() % 330;
            for call in first..first + 1 + dice.next() % 20 {
                let call = ScmpSyscall::from(call as i32);
                // Rules that contradict each other or say what is said anyway are refused.
                let _ = match conditional {
                    true => filter.add_rule_conditional(action, call, &[compare]),
                    false => filter.add_rule(action, call),
                };
            }
        }
        let old = export(&filter).unwrap();
        let new = encode(&rewrite(&decode(&old).unwrap()).unwrap());
        n_shorter += usize::from(new.len() < old.len());
        n_looking += usize::from(
            decode(&new)
                .unwrap()
                .iter()
                .any(|one| one.code == LOAD && one.k >= REST),
        );
        check_same(&old, &new, &mut dice);
    }
    assert!(
        n_shorter > 50 && n_looking > 50,
        "{n_shorter} shorter, {n_looking} with arguments"
    );
}

#[test]
fn what_is_not_understood_is_left_alone() {
    let program = |all: &[(u16, u8, u8, u32)]| {
        let all = all
            .iter()
            .map(|&(code, jt, jf, k)| Instruction { code, jt, jf, k });
        encode(&all.collect::<Vec<_>>())
    };
    for odd in [
        program(&[]),
        // No end; a jump out of it; no question for the architecture; an unknown instruction; bits of a number.
        program(&[(LOAD, 0, 0, ARCHITECTURE)]),
        program(&[
            (LOAD, 0, 0, ARCHITECTURE),
            (JUMP, 0, 0, u32::MAX),
            (RETURN, 0, 0, 0),
        ]),
        program(&[(LOAD, 0, 0, NUMBER), (RETURN, 0, 0, 0)]),
        program(&[
            (LOAD, 0, 0, ARCHITECTURE),
            (0x81, 0, 0, 0),
            (RETURN, 0, 0, 0),
        ]),
        program(&[
            (LOAD, 0, 0, ARCHITECTURE),
            (LOAD, 0, 0, NUMBER),
            (IF_BITS, 0, 1, 1),
            (RETURN, 0, 0, 0),
            (RETURN, 0, 0, 1),
        ]),
        vec![0; 7],
    ] {
        assert_eq!(shorten(&odd), None, "{odd:?}");
    }
}

//! Where a frame goes, and what becomes of it on the way. Pure: frames in, deliveries out; chance is an argument.
//!
//! Every machine has a number, which is the last byte of its address: no learning, no flooding, nothing to time out.

use std::collections::BTreeMap;
use std::time::Duration;

/// Locally administered, and QEMU's habit.
const PREFIX: [u8; 5] = [0x52, 0x54, 0x00, 0x6d, 0x7a];
/// Two addresses and a type.
const HEADER: usize = 14;

/// A machine of the network: 1 to 250.
pub(super) type Number = u8;

/// What happens to frames from one machine to another.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Weather {
    /// None arrives.
    pub cut: bool,
    /// So many of them are lost, 0 to 1.
    pub loss: f64,
    /// Each arrives so much later.
    pub delay: Duration,
}

/// The way of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) to: Number,
    pub(super) delay: Duration,
}

/// The state of all links. Fair unless said otherwise.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    links: BTreeMap<(Number, Number), Weather>,
}

impl Rules {
    /// From one machine to another, and not the way back.
    pub(super) fn set(&mut self, from: Number, to: Number, weather: Weather) {
        self.links.insert((from, to), weather);
    }

    /// Fair weather everywhere.
    pub(super) fn clear(&mut self) {
        self.links.clear();
    }

    /// Where `frame`, heard from the machine `from`, goes among `machines`. `chance` gives numbers in 0..1. A frame
    /// that is no Ethernet, or that claims to be from another machine, goes nowhere.
    pub(super) fn deliveries(
        &self,
        frame: &[u8],
        from: Number,
        machines: impl IntoIterator<Item = Number>,
        mut chance: impl FnMut() -> f64,
    ) -> Vec<Delivery> {
        if frame.len() < HEADER || frame[6..12] != mac(from) {
            return Vec::new();
        }
        let to_many = frame[0] & 1 == 1;
        let is_meant = |to: Number| to != from && (to_many || frame[..6] == mac(to));
        let mut found = Vec::new();
        for to in machines.into_iter().filter(|&to| is_meant(to)) {
            let weather = self.links.get(&(from, to)).copied().unwrap_or_default();
            let lost = weather.cut || (weather.loss > 0.0 && chance() < weather.loss);
            if !lost {
                found.push(Delivery {
                    to,
                    delay: weather.delay,
                });
            }
        }
        found
    }
}

/// The address of a machine's interface.
pub(super) fn mac(number: Number) -> [u8; 6] {
    let [a, b, c, d, e] = PREFIX;
    [a, b, c, d, e, number]
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYBODY: [u8; 6] = [0xff; 6];

    fn frame(to: [u8; 6], from: Number) -> Vec<u8> {
        [&to[..], &mac(from), &[8, 0, 1, 2, 3]].concat()
    }

    fn reached(rules: &Rules, frame: &[u8], from: Number) -> Vec<Number> {
        let found = rules.deliveries(frame, from, 1..=3, || 0.5);
        found.into_iter().map(|one| one.to).collect()
    }

    #[test]
    fn frames_reach_those_they_are_meant_for() {
        let fair = Rules::default();
        assert_eq!(reached(&fair, &frame(mac(2), 1), 1), [2]);
        assert_eq!(reached(&fair, &frame(EVERYBODY, 2), 2), [1, 3]);
        assert!(reached(&fair, &frame(mac(1), 1), 1).is_empty());
        assert!(reached(&fair, &frame(mac(9), 1), 1).is_empty());
    }

    #[test]
    fn a_machine_speaks_for_itself_only() {
        let fair = Rules::default();
        assert!(reached(&fair, &frame(mac(2), 3), 1).is_empty());
        assert!(reached(&fair, &[0; HEADER - 1], 1).is_empty());
    }

    #[test]
    fn each_direction_has_its_own_weather() {
        let mut rules = Rules::default();
        let cut = Weather {
            cut: true,
            ..Weather::default()
        };
        rules.set(1, 2, cut);
        assert!(reached(&rules, &frame(mac(2), 1), 1).is_empty());
        assert_eq!(reached(&rules, &frame(mac(1), 2), 2), [1]);
        assert_eq!(reached(&rules, &frame(EVERYBODY, 1), 1), [3]);
        rules.clear();
        assert_eq!(reached(&rules, &frame(mac(2), 1), 1), [2]);
    }

    #[test]
    fn loss_is_a_share_and_delay_a_time() {
        let mut rules = Rules::default();
        let rain = |loss| Weather {
            loss,
            delay: Duration::from_millis(7),
            ..Weather::default()
        };
        rules.set(1, 2, rain(0.4));
        let found = rules.deliveries(&frame(mac(2), 1), 1, [2], || 0.5);
        let delay = Duration::from_millis(7);
        assert_eq!(found, [Delivery { to: 2, delay }]);
        rules.set(1, 2, rain(0.6));
        assert!(reached(&rules, &frame(mac(2), 1), 1).is_empty());
    }
}

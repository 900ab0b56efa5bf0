//! What this machine has and who holds it: [`ledger`] decides, [`detect`] looks at the machine, [`ports`] asks the
//! kernel who listens.

pub(crate) mod detect;
pub(crate) mod ledger;
pub(crate) mod ports;

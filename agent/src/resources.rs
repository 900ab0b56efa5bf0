//! What this machine has and who holds it: [`book`] says whose it is, [`ledger`] decides, [`grant`] picks which ([`cores`], [`devices`]), [`detect`] looks at the
//! machine, [`ports`] asks the kernel who listens.

pub(crate) mod book;
pub(crate) mod cores;
pub(crate) mod detect;
pub(crate) mod devices;
pub(crate) mod grant;
pub(crate) mod ledger;
pub(crate) mod ports;

//! Ctrl-C and SIGTERM as a flag: whoever waits sees it and returns an error, and the guards on the stack clean up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGINT, SIGTERM};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // A process that may not set a handler keeps the default action; then nothing is lost but the cleaning up.
        let _default_action = signal_hook::flag::register(signal, Arc::clone(&flag));
    }
    flag
});

/// From now on the two signals no longer end this process but make every wait fail.
pub fn install() {
    LazyLock::force(&REQUESTED);
}

/// Whether one of them has come.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Whether one of them has come, and forgets it: cleaning up waits too, and must not be cut short by the signal that
/// began it.
pub fn take() -> bool {
    REQUESTED.swap(false, Ordering::Relaxed)
}

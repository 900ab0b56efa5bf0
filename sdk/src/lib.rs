//! For authors of frameworks: programs that take offers from a mezzo master and decide what to run on them.
//!
//! ```text
//! Framework::builder ──► Framework: events, one after the other   Subscribed, Offers, Rescinded, Update, AgentLost, …
//!                    └─► Calls: cheap to clone                    launch, decline, acknowledge, reconcile, …
//! ```
//!
//! A [`Framework`] stays subscribed: when its stream breaks or the master is gone it tries all masters that it was told
//! of, with growing pauses, follows the one that leads, and says so ([`Event::Disconnected`], [`Event::Subscribed`]). A master
//! of a lower term than was seen leads no longer and is not followed ([`Builder::master_term`]). It
//! gives up only where trying again cannot help ([`Error`]). What it does not do is decide, or store: an author writes
//! down what must survive, and acknowledges after that.
//!
//! The whole of a small framework:
//!
//! ```no_run
//! use mezzo_framework::{Event, Framework, REFUSE_LONG, Room, Task};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut framework = Framework::builder("hello").masters(["127.0.0.1:5050"]).spawn()?;
//! let calls = framework.calls();
//! let mut task = Some(Task::new("hello-1").image("busybox:1").command(["echo", "hello"]).cpus("0.1").mem(32));
//! while let Some(event) = framework.next().await {
//!     match event? {
//!         Event::Offers(offers) => {
//!             for offer in offers {
//!                 let mut room = Room::of(&offer);
//!                 match task.as_ref().map(|task| room.place(task)) {
//!                     Some(Ok(info)) => {
//!                         task = None;
//!                         calls.launch(&offer, vec![info], REFUSE_LONG).await?;
//!                     }
//!                     // Too small, or nothing left to run.
//!                     Some(Err(_)) | None => calls.decline([&offer], REFUSE_LONG).await?,
//!                 }
//!             }
//!         }
//!         Event::Update(status) => {
//!             println!("{}: {}", status.task_id, status.state);
//!             calls.acknowledge(&status).await?;
//!             if status.state.is_terminal() {
//!                 calls.teardown().await?;
//!             }
//!         }
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `docs/framework-tutorial.md` builds a framework that outlives its master and itself, step by step, here and in Python.
#![forbid(unsafe_code)]

mod builder;
mod calls;
mod error;
mod event;
mod link;
mod reconciliation;
mod task;
mod wishes;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub use builder::{Builder, InvalidConfig};
pub use calls::Calls;
pub use error::{CallError, Error};
pub use event::{Event, InverseOffer};
pub use mezzo_api::model;
pub use reconciliation::Reconciliation;
pub use task::{Room, Task, TaskError};

/// For offers that are of no use: the same agent is not offered again for ten minutes, unless something comes free there
/// or the framework revives.
pub const REFUSE_LONG: Duration = Duration::from_secs(600);

/// A framework's subscription: a stream of events that goes on over broken connections and other leaders.
///
/// Dropped, it ends its stream; its tasks stay for the failover timeout, and the next process that subscribes with the
/// same id has them.
#[derive(Debug)]
pub struct Framework {
    events: mpsc::Receiver<Result<Event, Error>>,
    calls: Calls,
    stop: CancellationToken,
    link: JoinHandle<()>,
}

impl Framework {
    /// Begins the description of a framework; the name is for people.
    ///
    /// ```
    /// let builder = mezzo_framework::Framework::builder("nightly").masters(["m1:5050", "m2:5050"]);
    /// assert!(builder.check().is_ok());
    /// ```
    #[must_use]
    pub fn builder(name: &str) -> Builder {
        Builder::new(name)
    }

    fn spawn(config: builder::Checked) -> Self {
        let (sender, events) = mpsc::channel(config.queue);
        let (sessions, current) = watch::channel(None);
        let stop = CancellationToken::new();
        let roles = config.info.roles.iter().map(ToString::to_string).collect();
        let wishes = Arc::new(wishes::Wishes::new(roles, config.suppressed));
        let calls = Calls::new(current, config.call_timeout, Arc::clone(&wishes));
        let line = link::Line::new(config, sender, sessions, wishes);
        let link = tokio::spawn(line.run(stop.clone()));
        Self {
            events,
            calls,
            stop,
            link,
        }
    }

    /// The next event; waits for it as long as it takes. `None` after the end: after an [`Error`], or a teardown.
    ///
    /// Read steadily: events wait in a bounded queue, and a framework that lets them pile up is cut off by the master
    /// (it is subscribed again, and has to reconcile).
    ///
    /// # Errors
    ///
    /// The last thing that comes: what ended the subscription for good.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        self.events.recv().await
    }

    /// What the framework may ask of the master. Cheap to clone, good in any task.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.calls.clone()
    }

    /// Ends the stream and waits until it has ended. Tasks stay for the failover timeout.
    pub async fn close(mut self) {
        self.stop.cancel();
        // The link may be waiting for room in the queue.
        self.events.close();
        // A panic in the link has been told by its hook.
        let _ = (&mut self.link).await;
    }
}

impl Drop for Framework {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Stream for Framework {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context)
    }
}

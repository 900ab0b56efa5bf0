//! Why the agent does not run.

use std::{io, path::PathBuf};

/// One error for the person who started it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it would show to the master.
    #[error(transparent)]
    Credential(#[from] mezzo_api::credential::InvalidCredential),
    /// A field of the configuration.
    #[error("configuration: {field}: {problem}")]
    Config {
        /// Which.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The state folder or a file in it.
    #[error("cannot {operation} {path}", path = path.display())]
    State {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody else has the state folder.
    #[error("another mezzo agent is using the state directory {path}; stop it or give this one another with --state-dir", path = .0.display())]
    InUse(PathBuf),
    /// `agent.json` does not parse.
    #[error("{path} does not parse: {problem}; remove it to register this machine as a new agent", path = path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A newer agent has written there.
    #[error(
        "{path} has version {found}, this agent reads up to {known}: a newer agent was here. Start that one (or a newer one) again; nothing \
         was touched and tasks run on",
        path = path.display()
    )]
    Newer {
        /// The first such file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that is read.
        known: u32,
    },
    /// The agent is to offer less than its tasks hold.
    #[error(
        "{0}. Give it as much as before, or start it so and take it out of service first (`mezzo node drain`); tasks run on"
    )]
    TasksDoNotFit(String),
    /// What is reserved here cannot be read.
    #[error(
        "{path} does not say what is reserved here: {problem}. Put it right, or move it and the folder `volumes` beside it away to begin without reservations"
    )]
    Reservations {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The agent is to offer less than is reserved or in volumes.
    #[error(
        "{0}. Give it as much as before; reservations and volumes end by `mezzo node unreserve` and `mezzo volume destroy`"
    )]
    ReservationsDoNotFit(String),
    /// No listener.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Containers cannot be run.
    #[error("cannot open the container runtime: {0}")]
    Runtime(String),
    /// Images cannot be held.
    #[error("cannot open the image store: {0}")]
    Images(String),
    /// Nothing can be downloaded here.
    #[error("cannot prepare downloads: {0}")]
    Fetch(String),
    /// The master does not want this agent.
    #[error("the master {master} refused this agent: {message}")]
    Refused {
        /// Which.
        master: String,
        /// Its words.
        message: String,
    },
    /// Serving ended.
    #[error("the server on {address} failed")]
    Serve {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

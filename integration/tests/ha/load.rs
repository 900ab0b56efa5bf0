//! An operator who sets weights, one after the other, each higher than the last, on whichever master leads; and who
//! remembers what was promised. What was refused or not answered may have been done or not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mezzo_api::masters::{self, Masters};
use mezzo_api::proto::operator_service_client::OperatorServiceClient;
use mezzo_api::proto::update_weights_request::Weight;
use mezzo_api::proto::{ListRolesRequest, UpdateWeightsRequest};
use mezzo_integration::wait;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

const ROLES: u64 = 10;
const CALL: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct Load {
    pub(crate) n_promised: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Promised>>,
}

/// The last weight of each role that a master said it keeps.
#[derive(Debug, Default)]
pub(crate) struct Promised {
    weights: BTreeMap<String, u64>,
    pub(crate) n: u64,
}

fn client(address: &str) -> Result<OperatorServiceClient<Channel>, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let endpoint = endpoint.connect_timeout(CALL).timeout(CALL);
    Ok(OperatorServiceClient::new(endpoint.connect_lazy()))
}

fn event_loop() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("an event loop")
}

impl Load {
    pub(crate) fn start(list: String) -> Self {
        let (n_promised, over) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, stop) = (Arc::clone(&n_promised), Arc::clone(&over));
        let thread = thread::spawn(move || {
            event_loop()?.block_on(async {
                let (mut masters, mut promised) = (Masters::parse(&list)?, Promised::default());
                let mut open = client(masters.current())?;
                let mut weight = 1000;
                while !stop.load(Ordering::Relaxed) {
                    weight += 1;
                    let role = format!("r{}", weight % ROLES);
                    match set(&mut open, &role, weight).await {
                        Ok(()) => {
                            masters.reached();
                            promised.weights.insert(role, weight);
                            promised.n += 1;
                            count.store(promised.n, Ordering::Relaxed);
                            tokio::time::sleep(PAUSE).await;
                        }
                        Err(status) => {
                            let pause = masters.failed(masters::leader_named(&status), 0.5);
                            tokio::time::sleep(pause).await;
                            open = client(masters.current())?;
                        }
                    }
                }
                Ok(promised)
            })
        });
        Self {
            n_promised,
            over,
            thread,
        }
    }

    pub(crate) fn finish(self) -> Result<Promised> {
        self.over.store(true, Ordering::Relaxed);
        let joined = self.thread.join();
        joined.map_err(|_| anyhow::anyhow!("the load panicked"))?
    }
}

async fn set(
    client: &mut OperatorServiceClient<Channel>,
    role: &str,
    weight_millis: u64,
) -> Result<(), Status> {
    let weight = Weight {
        role: role.to_owned(),
        weight_millis,
    };
    let weights = vec![weight];
    client
        .update_weights(UpdateWeightsRequest { weights })
        .await
        .map(drop)
}

impl Promised {
    /// No role has a lower weight than was promised last: nothing was lost, nothing older came later.
    pub(crate) fn check_kept(&self, list: &str) -> Result<()> {
        let runtime = event_loop()?;
        let mut masters = Masters::parse(list)?;
        let kept = wait::until("the roles", Duration::from_secs(60), || {
            let answer = runtime.block_on(async {
                client(masters.current())?
                    .list_roles(ListRolesRequest::default())
                    .await
            });
            answer.map_err(|status| {
                masters.failed(masters::leader_named(&status), 0.0);
                status.into()
            })
        })?;
        let kept = kept.into_inner().roles.into_iter();
        let kept: BTreeMap<String, u64> =
            kept.map(|role| (role.name, role.weight_millis)).collect();
        for (role, promised) in &self.weights {
            let found = kept.get(role).copied().unwrap_or(0);
            ensure!(
                found >= *promised,
                "{role} has weight {found}, {promised} was promised"
            );
        }
        Ok(())
    }
}

//! Reservations, pools, volumes.

use super::{Invalid, Problems};
use crate::{
    model::{PersistentVolume, Pool, Reservation, ReservationKind, Stack},
    proto,
};

const MOST_LABELS: usize = 64;

impl TryFrom<proto::Reservation> for Reservation {
    type Error = Invalid;

    fn try_from(reservation: proto::Reservation) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let kind = match reservation.kind() {
            proto::ReservationKind::Static => ReservationKind::Static,
            proto::ReservationKind::Unspecified | proto::ReservationKind::Dynamic => {
                ReservationKind::Dynamic
            }
        };
        let role = problems.take("role", reservation.role.parse());
        problems.bound("principal", &reservation.principal, 255);
        if reservation.labels.len() > MOST_LABELS {
            problems.note("labels", format!("more than {MOST_LABELS}"));
        }
        for (name, value) in &reservation.labels {
            problems.bound("labels", name, 255);
            problems.bound("labels", value, 1024);
        }
        problems.finish(role.map(|role| Self {
            role,
            kind,
            principal: reservation.principal,
            labels: reservation.labels.into_iter().collect(),
        }))
    }
}

impl From<Reservation> for proto::Reservation {
    fn from(reservation: Reservation) -> Self {
        Self {
            role: reservation.role.into(),
            kind: match reservation.kind {
                ReservationKind::Static => proto::ReservationKind::Static,
                ReservationKind::Dynamic => proto::ReservationKind::Dynamic,
            }
            .into(),
            principal: reservation.principal,
            labels: reservation.labels.into_iter().collect(),
        }
    }
}

/// A stack with at least one reservation.
pub(super) fn stack(list: Vec<proto::Reservation>) -> Result<Stack, Invalid> {
    let mut problems = Problems::default();
    let all: Vec<Reservation> = problems.list("", list, Stack::HIGHEST);
    problems.finish(Some(()))?;
    Stack::try_from(all).map_err(|error| Invalid::new("", error.to_string()))
}

/// The list that the wire has.
pub(super) fn layers(stack: &Stack) -> Vec<proto::Reservation> {
    stack.as_slice().iter().cloned().map(Into::into).collect()
}

impl TryFrom<proto::Pool> for Pool {
    type Error = Invalid;

    fn try_from(pool: proto::Pool) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let stack = problems.take("stack", stack(pool.stack));
        let resources = problems.take("resources", pool.resources.try_into());
        problems.finish((|| {
            Some(Self {
                stack: stack?,
                resources: resources?,
            })
        })())
    }
}

impl From<Pool> for proto::Pool {
    fn from(pool: Pool) -> Self {
        Self {
            stack: layers(&pool.stack),
            resources: pool.resources.into(),
        }
    }
}

impl TryFrom<proto::PersistentVolume> for PersistentVolume {
    type Error = Invalid;

    fn try_from(volume: proto::PersistentVolume) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let id = problems.take("volume_id", volume.volume_id.parse());
        let stack = problems.take("stack", stack(volume.stack));
        problems.bound("principal", &volume.principal, 255);
        if volume.size_mb == 0 || volume.size_mb > Self::LARGEST_MB {
            problems.note("size_mb", format!("must be from 1 to {}", Self::LARGEST_MB));
        }
        problems.finish((|| {
            Some(Self {
                id: id?,
                stack: stack?,
                size_mb: volume.size_mb,
                principal: volume.principal,
                shared: volume.shared,
            })
        })())
    }
}

impl From<PersistentVolume> for proto::PersistentVolume {
    fn from(volume: PersistentVolume) -> Self {
        Self {
            volume_id: volume.id.into(),
            stack: layers(&volume.stack),
            size_mb: volume.size_mb,
            principal: volume.principal,
            shared: volume.shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_and_volumes_survive_the_wire_and_bad_ones_are_named_with_their_place() {
        let eng = Stack::single(Reservation::dynamic("eng".parse().unwrap(), "ops")).unwrap();
        let mut labelled = Reservation::dynamic("eng/web".parse().unwrap(), "");
        labelled.labels.insert("app".into(), "db".into());
        let volume = PersistentVolume {
            id: "data".parse().unwrap(),
            stack: eng.refined(labelled).unwrap(),
            size_mb: 5,
            principal: "ops".into(),
            shared: true,
        };
        let wire = proto::PersistentVolume::from(volume.clone());
        assert_eq!(PersistentVolume::try_from(wire.clone()), Ok(volume));
        let mut bad = wire;
        bad.volume_id = "../x".into();
        bad.size_mb = 0;
        bad.stack.reverse();
        let error = PersistentVolume::try_from(bad).unwrap_err();
        let fields: Vec<_> = error.problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, ["volume_id", "stack", "size_mb"], "{error}");
        let mut pool = proto::Pool::from(Pool {
            stack: eng,
            resources: "cpus:1".parse().unwrap(),
        });
        pool.stack[0].role = "a b".into();
        let error = Pool::try_from(pool).unwrap_err();
        assert_eq!(error.problems[0].field, "stack[0].role", "{error}");
    }
}

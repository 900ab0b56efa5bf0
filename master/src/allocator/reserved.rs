//! What is reserved, within one pass: it counts for its role already, as long as it is idle too. So it costs only the
//! roles below that one, on the way to who takes it. A shared volume costs nobody: it counts for its role, once, whoever has it.

use std::borrow::Cow;

use mezzo_api::model::{Pools, Resources, RoleName, Scalar, Value};

use super::{
    axes::{Amounts, Axes},
    tree::{NodeId, RoleTree},
};

/// By how many levels `role` lies below `above`, which it is or lies below.
pub(super) fn n_below(role: &RoleName, above: &RoleName) -> usize {
    let depth = |role: &RoleName| role.as_str().matches('/').count();
    depth(role).saturating_sub(depth(above))
}

/// The scalars of each reservation and volume, by its role.
pub(super) fn amounts<'p>(
    axes: &Axes<'_>,
    pools: &'p Pools,
) -> impl Iterator<Item = (&'p RoleName, Amounts)> {
    let of = |resources: &Resources| {
        let mut amounts = axes.zero();
        axes.fill(resources, &mut amounts);
        amounts
    };
    let reserved = pools.reserved().map(move |(s, part)| (s.role(), of(part)));
    let volumes = pools.volumes().filter(|volume| !volume.shared);
    let volumes = volumes.map(move |volume| {
        let disk = of(&volume.resources());
        (volume.stack.role(), disk)
    });
    reserved.chain(volumes)
}

/// Of what is seen, with `open` in place of its open part, as much as limits of roles below those of the reservations
/// allow. What is reserved goes first; volumes go whole or not at all. `room` is what limits leave for all together.
pub(super) fn within_limits<'f>(
    axes: &Axes<'_>,
    tree: &RoleTree,
    leaf: NodeId,
    role: &RoleName,
    seen: Cow<'f, Pools>,
    open: Resources,
    room: &mut [i128],
) -> Cow<'f, Pools> {
    let mut used = axes.zero();
    let mut most = axes.zero();
    let mut part = Pools::default();
    let mut rooms = |above: &RoleName, used: &Amounts| {
        tree.room_within(leaf, n_below(role, above), &mut most);
        let left = most
            .iter()
            .zip(used)
            .map(|(most, used)| (most - used).max(0));
        left.collect::<Amounts>()
    };
    let take = |above: &RoleName, resources: &Resources, used: &mut Amounts| {
        let counts = n_below(role, above) > 0;
        let mut taken = axes.zero();
        axes.fill(resources, &mut taken);
        if counts {
            used.iter_mut()
                .zip(taken)
                .for_each(|(used, more)| *used += more);
        }
    };
    for (stack, resources) in seen.reserved() {
        let cut = cut(axes, resources, &rooms(stack.role(), &used));
        take(stack.role(), &cut, &mut used);
        part = part.with_reserved(stack, cut);
    }
    for volume in seen.volumes() {
        if volume.shared {
            part = part.with_volume(volume.clone());
            continue;
        }
        let disk = volume.resources();
        if cut(axes, &disk, &rooms(volume.stack.role(), &used)) == disk {
            take(volume.stack.role(), &disk, &mut used);
            part = part.with_volume(volume.clone());
        }
    }
    for (room, used) in room.iter_mut().zip(&used) {
        *room = (*room - used).max(0);
    }
    let part = part.with_open(cut(axes, &open, room));
    if part == *seen {
        seen
    } else {
        Cow::Owned(part)
    }
}

fn cut(axes: &Axes<'_>, resources: &Resources, room: &[i128]) -> Resources {
    let mut part = resources.clone();
    for (name, value) in resources.iter() {
        if let (Value::Scalar(have), Some(axis)) = (value, axes.position(name))
            && room[axis] < i128::from(have.millis())
        {
            let most = i64::try_from(room[axis]).unwrap_or(i64::MAX);
            part = part.with_scalar(name, Scalar::from_millis(most));
        }
    }
    part
}

//! Who gets which partitions: balanced, and moving as little as that allows.
//!
//! Runs at the coordinator, as in KIP-848, so that members need not agree on code; in the classic protocol the group's
//! first member would run it. The rule is that of Kafka's sticky assignors: nobody has two partitions more than
//! another who could take one.

use std::collections::{BTreeMap, BTreeSet};

use stormglass_runtime::{Partition, Topic};

/// One member's wishes.
pub(super) struct Claim<'a> {
    pub(super) topics: &'a [Topic],
    pub(super) owned: &'a BTreeSet<Partition>,
}

/// An owner for each of `partitions` whose topic any member takes.
pub(super) fn assign(
    partitions: &[Partition],
    members: &BTreeMap<String, Claim<'_>>,
) -> BTreeMap<Partition, String> {
    let mut loads: BTreeMap<&str, usize> = members.keys().map(|member| (member.as_str(), 0)).collect();
    let mut owners: BTreeMap<&Partition, &str> = BTreeMap::new();
    for partition in partitions {
        let takes =
            |claim: &Claim<'_>| claim.owned.contains(partition) && claim.topics.contains(&partition.topic);
        if let Some((owner, _)) = members.iter().find(|(_, claim)| takes(claim)) {
            owners.insert(partition, owner);
            *loads.entry(owner).or_default() += 1;
        }
    }
    let least = |loads: &BTreeMap<&str, usize>, partition: &Partition| {
        let able = members.iter().filter(|(_, claim)| claim.topics.contains(&partition.topic));
        able.map(|(member, _)| member.as_str()).min_by_key(|member| (loads.get(member).copied(), *member))
    };
    for partition in partitions {
        if !owners.contains_key(partition)
            && let Some(owner) = least(&loads, partition)
        {
            owners.insert(partition, owner);
            *loads.entry(owner).or_default() += 1;
        }
    }
    // Each move lowers the sum of squared loads, so this ends.
    let mut moved = true;
    while std::mem::take(&mut moved) {
        for (partition, owner) in &mut owners {
            let Some(other) = least(&loads, partition) else { continue };
            if loads.get(owner) > loads.get(other).map(|load| load + 1).as_ref() {
                *loads.entry(owner).or_default() -= 1;
                *loads.entry(other).or_default() += 1;
                *owner = other;
                moved = true;
            }
        }
    }
    owners.into_iter().map(|(partition, owner)| (partition.clone(), owner.to_owned())).collect()
}

//! Which of several routers counts the calls of a function.
//!
//! Counters are exact only where one router gives away all places of a function. All routers
//! choose it alike (rendezvous hashing over those that are ready): when one comes or goes, only
//! the functions that it wins or had change hands. While routers disagree, a function has two
//! counting routers for a moment, and the executor's limit of instances still holds.

use std::collections::BTreeMap;

/// The routers that are ready.
#[derive(Debug)]
pub struct Routers {
    own: String,
    /// Name of the Pod, and where it listens for other parts.
    ready: BTreeMap<String, String>,
}

impl Routers {
    /// Nobody is known yet; `own` is the name of this Pod.
    pub fn new(own: &str) -> Self {
        Self {
            own: own.to_owned(),
            ready: BTreeMap::new(),
        }
    }

    /// A router is ready.
    pub fn put(&mut self, name: String, address: String) {
        self.ready.insert(name, address);
    }

    /// A router is not ready any more.
    pub fn remove(&mut self, name: &str) {
        self.ready.remove(name);
    }

    /// Where the router listens that owns this function; none when it is this one.
    pub fn owner(&self, uid: &str) -> Option<&str> {
        let (name, address) = self.ready.iter().max_by_key(|(name, _)| score(name, uid))?;
        (*name != self.own).then_some(address)
    }
}

/// FNV-1a over both with a mark between, and a last mixing so that all bits count.
fn score(name: &str, uid: &str) -> u64 {
    let bytes = name.bytes().chain([0xff]).chain(uid.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routers(own: &str, names: &[&str]) -> Routers {
        let mut routers = Routers::new(own);
        for name in names {
            routers.put((*name).to_owned(), (*name).to_owned());
        }
        routers
    }

    /// The owner as this router sees it.
    fn owner<'a>(routers: &'a Routers, uid: &str) -> &'a str {
        routers.owner(uid).unwrap_or(&routers.own)
    }

    #[test]
    fn all_routers_choose_alike_and_share_the_work() {
        let names = ["router-a", "router-b", "router-c"];
        let all: Vec<_> = names.iter().map(|own| routers(own, &names)).collect();
        let mut shares = BTreeMap::<&str, usize>::new();
        for number in 0..3000 {
            let uid = format!("uid-{number}");
            let chosen = owner(&all[0], &uid);
            assert!(all.iter().all(|routers| owner(routers, &uid) == chosen));
            *shares.entry(chosen).or_default() += 1;
        }
        assert!(
            shares.values().all(|share| (800..1200).contains(share)),
            "{shares:?}"
        );
    }

    #[test]
    fn only_the_functions_of_a_router_that_goes_change_hands() {
        let before = routers("router-a", &["router-a", "router-b", "router-c"]);
        let mut after = routers("router-a", &["router-a", "router-b", "router-c"]);
        after.remove("router-c");
        for number in 0..1000 {
            let uid = format!("uid-{number}");
            let was = owner(&before, &uid);
            assert!(was == "router-c" || was == owner(&after, &uid));
        }
    }

    #[test]
    fn a_router_alone_owns_everything() {
        assert_eq!(Routers::new("router-a").owner("u"), None);
        assert_eq!(routers("router-a", &["router-a"]).owner("u"), None);
    }
}

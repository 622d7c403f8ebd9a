//! Every refusal of a join, and what it says.

use super::*;
use farplane_types::{HostProvider, HostSpec, JoinTokenSpec, JoinTokenStatus, OrganizationSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const MINUTE: i64 = 60;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn token() -> Token {
    Token {
        ca_sha256: "ab".repeat(32),
        organization: "demo".into(),
        id: "t1".into(),
        secret: "cd".repeat(32),
    }
}

/// Made at 0, valid for ten minutes.
fn object() -> JoinToken {
    let spec = JoinTokenSpec {
        endpoint: "site".into(),
        host: None,
        secret_sha256: token().secret_sha256(),
        expires_at: Time(at(10 * MINUTE)),
    };
    let mut object = JoinToken::new("t1", spec);
    object.metadata.creation_timestamp = Some(Time(at(0)));
    object
}

fn used(host: &str, key: &str) -> JoinToken {
    let mut object = object();
    object.status = Some(JoinTokenStatus {
        used_by: Some(host.into()),
        used_at: None,
        key_sha256: Some(key.into()),
    });
    object
}

fn bound(host: &str) -> JoinToken {
    let mut object = object();
    object.spec.host = Some(host.into());
    object
}

fn host(endpoint: &str) -> Host {
    let spec = HostSpec {
        endpoint: endpoint.into(),
        provider: HostProvider::Own,
        unschedulable: false,
    };
    Host::new("one", spec)
}

#[test]
fn only_the_secret_opens_and_nothing_else_is_told() {
    assert!(authentic(&token(), Some(&object())).is_ok());
    let mut forged = token();
    forged.secret = "ce".repeat(32);
    assert_eq!(
        authentic(&forged, Some(&object())).unwrap_err(),
        Refusal::Unknown
    );
    assert_eq!(authentic(&token(), None).unwrap_err(), Refusal::Unknown);
    let mut short = object();
    short.spec.secret_sha256 = String::new();
    assert_eq!(
        authentic(&token(), Some(&short)).unwrap_err(),
        Refusal::Unknown
    );
    let mut revoked = object();
    revoked.metadata.deletion_timestamp = Some(Time(at(1)));
    assert_eq!(
        authentic(&token(), Some(&revoked)).unwrap_err(),
        Refusal::Unknown
    );
}

#[test]
fn a_token_ends_when_it_says_and_after_an_hour_whatever_it_says() {
    let expired = |object: &JoinToken, now| usable(object, "one", "k", at(now)).is_err();
    assert!(!expired(&object(), 10 * MINUTE - 1));
    assert!(expired(&object(), 10 * MINUTE));
    let mut long = object();
    long.spec.expires_at = Time(at(1_000_000));
    assert!(!expired(&long, 60 * MINUTE - 1));
    assert!(expired(&long, 60 * MINUTE));
    let mut undated = object();
    undated.metadata.creation_timestamp = None;
    assert!(expired(&undated, 1));
}

#[test]
fn a_used_token_answers_only_the_join_that_used_it() {
    let now = at(1);
    assert_eq!(usable(&object(), "one", "k", now), Ok(Use::First));
    assert_eq!(usable(&used("one", "k"), "one", "k", now), Ok(Use::Repeat));
    for (name, key) in [("one", "other"), ("two", "k")] {
        assert!(matches!(
            usable(&used("one", "k"), name, key, now),
            Err(Refusal::Used { .. })
        ));
    }
}

#[test]
fn names_are_checked_and_bound_tokens_keep_to_theirs() {
    let now = at(1);
    assert!(matches!(
        usable(&object(), "../x", "k", now),
        Err(Refusal::BadName { .. })
    ));
    assert!(matches!(
        usable(&bound("two"), "one", "k", now),
        Err(Refusal::OtherHost { .. })
    ));
    assert_eq!(usable(&bound("one"), "one", "k", now), Ok(Use::First));
}

#[test]
fn a_free_name_is_made_and_a_taken_one_refused() {
    assert_eq!(
        target(&object(), "one", Use::First, None),
        Ok(Target::Create)
    );
    for use_ in [Use::First, Use::Repeat] {
        assert!(matches!(
            target(&object(), "one", use_, Some(&host("site"))),
            Err(Refusal::NameTaken { .. })
        ));
    }
}

#[test]
fn a_repeated_join_finds_the_host_that_it_made() {
    let mut own = host("site");
    own.metadata.annotations = Some([(TOKEN_ANNOTATION.to_owned(), "t1".to_owned())].into());
    let again = |use_| target(&used("one", "k"), "one", use_, Some(&own));
    assert_eq!(again(Use::Repeat), Ok(Target::Existing));
    assert!(again(Use::First).is_err());
}

#[test]
fn a_bound_token_takes_the_existing_host_unless_it_leaves_or_is_elsewhere() {
    let with = |host: &Host| target(&bound("one"), "one", Use::First, Some(host));
    assert_eq!(with(&host("site")), Ok(Target::Existing));
    assert!(matches!(
        with(&host("else")),
        Err(Refusal::OtherEndpoint { .. })
    ));
    let mut leaving = host("site");
    leaving.metadata.deletion_timestamp = Some(Time(at(1)));
    assert!(matches!(with(&leaving), Err(Refusal::BeingRemoved { .. })));
}

#[test]
fn an_organization_takes_as_many_hosts_as_it_may() {
    let mut organization = Organization::new("demo", OrganizationSpec::default());
    assert_eq!(room(Some(&organization), 1_000_000), Ok(()));
    organization.spec.limits.hosts = Some(2);
    assert_eq!(room(Some(&organization), 1), Ok(()));
    assert_eq!(
        room(Some(&organization), 2),
        Err(Refusal::LimitReached { limit: 2 })
    );
    assert_eq!(room(None, 0), Err(Refusal::Unknown));
}

#[test]
fn refusals_say_what_to_do_and_hold_no_secret() {
    for refusal in [
        Refusal::Unknown,
        Refusal::Expired,
        Refusal::Used { host: "x".into() },
        Refusal::NameTaken { name: "x".into() },
    ] {
        assert!(refusal.to_string().contains("farplane host join-command"));
        assert!(refusal.status().is_client_error());
    }
}

//! Streams of the hub that are refused, and why.

use super::*;
use farplane_tunnel::Class;
use farplane_types::PlaneReference;
use proptest::prelude::*;

fn plan(reachable: &[&str]) -> HostPlanSpec {
    HostPlanSpec {
        plane: PlaneReference {
            kind: "KubernetesCluster".into(),
            name: "c".into(),
            uid: "p1".into(),
        },
        listeners: Vec::new(),
        reachable: reachable.iter().map(|&it| it.to_owned()).collect(),
        units: Vec::new(),
    }
}

fn header(service: &str, plane: Option<&str>, target: Option<&str>) -> OpenHeader {
    let mut header = OpenHeader::new(Class::Interactive, service);
    header.plane = plane.map(str::to_owned);
    header.target = target.map(str::to_owned);
    header
}

const NODE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 0, 7)));

fn net(plan: &HostPlanSpec, target: &str) -> Result<SocketAddr, Refused> {
    authorise(&header("net", Some("p1"), Some(target)), Some(plan), NODE)
}

#[test]
fn the_kubelet_is_for_the_plane_that_has_the_host() {
    let plan = plan(&[]);
    let ask = |plane, plan| authorise(&header("kubelet", plane, None), plan, NODE);
    assert_eq!(
        ask(Some("p1"), Some(&plan)),
        Ok("192.168.0.7:10250".parse().unwrap())
    );
    assert_eq!(ask(Some("p2"), Some(&plan)), Err(Refused::OtherPlane));
    assert_eq!(ask(Some(""), Some(&plan)), Err(Refused::OtherPlane));
    assert_eq!(ask(None, Some(&plan)), Err(Refused::OtherPlane));
    assert_eq!(ask(Some("p1"), None), Err(Refused::NoPlan));
    let nowhere = authorise(&header("kubelet", Some("p1"), None), Some(&plan), None);
    assert_eq!(nowhere, Err(Refused::NoAddress));
}

#[test]
fn a_target_of_the_hubs_choosing_does_not_move_the_kubelet() {
    let plan = plan(&["10.0.0.0/8"]);
    let asked = header("kubelet", Some("p1"), Some("10.0.0.1:22"));
    let found = authorise(&asked, Some(&plan), NODE).unwrap();
    assert_eq!(found, "192.168.0.7:10250".parse().unwrap());
}

#[test]
fn only_two_services_are_here() {
    let plan = plan(&["0.0.0.0/0"]);
    for service in [
        "",
        "api",
        "plan",
        "renew",
        "repo",
        "via:demo/u/kubelet",
        "NET",
        "net ",
    ] {
        let asked = header(service, Some("p1"), Some("10.0.0.1:80"));
        let refused = authorise(&asked, Some(&plan), NODE).unwrap_err();
        assert_eq!(refused.code(), RefusalCode::UnknownService, "{service}");
    }
}

#[test]
fn the_network_is_reached_within_the_plans_ranges_only() {
    let plan = plan(&["10.96.0.0/16", "fd00:1::/64", "not a range"]);
    for good in ["10.96.0.1:443", "10.96.255.255:1", "[fd00:1::5]:80"] {
        assert_eq!(net(&plan, good), Ok(good.parse().unwrap()));
    }
    for bad in [
        "10.97.0.0:443",
        "10.95.255.255:443",
        "192.168.0.7:22",
        "127.0.0.1:10250",
        "[fd00:2::1]:80",
    ] {
        let refused = net(&plan, bad).unwrap_err();
        assert_eq!(refused.code(), RefusalCode::Forbidden, "{bad}");
    }
    let other = header("net", Some("p2"), Some("10.96.0.1:443"));
    assert_eq!(
        authorise(&other, Some(&plan), NODE),
        Err(Refused::OtherPlane)
    );
}

#[test]
fn names_and_odd_spellings_are_no_targets() {
    let plan = plan(&["0.0.0.0/0", "::/0"]);
    for bad in [
        "",
        "localhost:80",
        "kubernetes.default:443",
        "10.96.0.1",
        "10.96.0.1:0",
        "10.96.0.1:99999",
        "010.96.0.1:80",
        "0x0a.96.0.1:80",
        "10.96.1:80",
        "167772161:80",
        " 10.96.0.1:80",
        "10.96.0.1:80 ",
        "user@10.96.0.1:80",
        "10.96.0.1:80/x",
        "fd00::1:80",
        "[fd00::1%2]:80",
        "[fd00::1%eth0]:80",
    ] {
        assert_eq!(net(&plan, bad), Err(Refused::BadTarget), "{bad}");
    }
    let none = authorise(&header("net", Some("p1"), None), Some(&plan), NODE);
    assert_eq!(none, Err(Refused::BadTarget));
}

#[test]
fn the_machine_itself_is_out_of_every_range() {
    let plan = plan(&["0.0.0.0/0", "::/0"]);
    for special in [
        "127.0.0.1:80",
        "127.1.2.3:80",
        "0.0.0.0:80",
        "169.254.169.254:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "[::1]:80",
        "[::]:80",
        "[fe80::1]:80",
        "[ff02::1]:80",
    ] {
        assert!(net(&plan, special).is_err(), "{special}");
    }
}

#[test]
fn ipv4_in_the_clothes_of_ipv6_is_refused() {
    let plan = plan(&["10.96.0.0/16", "::/0", "::ffff:0:0/96"]);
    for trick in [
        "[::ffff:127.0.0.1]:10250",
        "[::ffff:10.96.0.1]:443",
        "[::ffff:7f00:1]:80",
        "[::ffff:169.254.169.254]:80",
        "[::127.0.0.1]:80",
        "[::10.96.0.1]:80",
    ] {
        assert!(net(&plan, trick).is_err(), "{trick}");
    }
}

proptest! {
    #[test]
    fn no_text_reaches_anything_outside_of_the_ranges(target in ".{0,60}") {
        let plan = plan(&["10.96.0.0/16"]);
        if let Ok(address) = net(&plan, &target) {
            let range: IpNet = "10.96.0.0/16".parse().unwrap();
            prop_assert!(range.contains(&address.ip()));
        }
    }

    #[test]
    fn every_address_is_judged_by_its_own_bytes(address: [u8; 4], port in 1u16..) {
        let plan = plan(&["10.96.0.0/16"]);
        let inside = address[0] == 10 && address[1] == 96;
        let target = SocketAddr::from((address, port)).to_string();
        prop_assert_eq!(net(&plan, &target).is_ok(), inside);
    }
}

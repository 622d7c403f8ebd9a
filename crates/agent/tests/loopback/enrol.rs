//! Enrolment: who gets the token, who does not, and what a person reads when it fails.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::support::{Hub, Leaf, Machine, UID, leaf, stop, until};
use farplane_agent::config::Config;
use farplane_agent::enrol::{EnrolError, enrol};
use farplane_agent::identity;
use farplane_gateway::join;
use farplane_types::HostFacts;
use farplane_types::token::Token;
use farplane_types::wire::JoinRequest;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

const NO_ARTIFACTS: &str = "127.0.0.1:1";

/// A TLS server with this chain; keeps every byte that it is sent after the handshake.
async fn impostor(certificate: &Leaf, more: &str) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let chain = format!("{}{more}", certificate.certificate);
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&heard);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            // The client ends the handshake when it does not like the certificate.
            let Ok(mut tls) = acceptor.accept(socket).await else {
                continue;
            };
            let mut chunk = [0; 1024];
            while let Ok(count @ 1..) = tls.read(&mut chunk).await {
                keep.lock().unwrap().extend_from_slice(&chunk[..count]);
            }
        }
    });
    (address, heard)
}

fn config(machine: &Machine) -> Config {
    Config::load(&machine.config).unwrap()
}

async fn try_join(at: SocketAddr, token: &Token) -> Result<identity::Identity, EnrolError> {
    let machine = Machine::new(at, Some(token));
    let agent_dir = machine.agent_dir();
    farplane_agent::files::private_directory(&agent_dir).unwrap();
    enrol(&config(&machine), token, HostFacts::default()).await
}

#[tokio::test]
async fn nobody_but_the_pinned_hub_gets_the_token() {
    let hub = Hub::new();
    let other = Hub::new();
    let token = hub.token("t1", 10);
    let gateway = "farplane://gateway";
    let day = (-1, 24);
    let real_ca = hub.hub_ca.pem();
    let cases = [
        (
            "another hub",
            leaf(&other.hub_ca, gateway, day),
            other.hub_ca.pem(),
        ),
        (
            "no CA shown",
            leaf(&hub.hub_ca, gateway, day),
            String::new(),
        ),
        // The CA certificate is public; only its key proves anything.
        (
            "the CA shown, another signed",
            leaf(&other.hub_ca, gateway, day),
            real_ca.clone(),
        ),
        (
            "both CAs shown",
            leaf(&other.hub_ca, gateway, day),
            format!("{real_ca}{}", other.hub_ca.pem()),
        ),
        (
            "a host of this hub",
            leaf(&hub.host_ca, gateway, day),
            real_ca.clone(),
        ),
        (
            "no gateway",
            leaf(&hub.hub_ca, "farplane://plane/p1", day),
            real_ca.clone(),
        ),
    ];
    for (name, certificate, more) in cases {
        let (address, heard) = impostor(&certificate, &more).await;
        let error = try_join(address, &token).await.unwrap_err();
        assert!(
            matches!(error, EnrolError::WrongHub { .. }),
            "{name}: {error}"
        );
        assert!(error.to_string().contains("token was not sent"), "{name}");
        assert!(!error.is_retryable(), "{name}");
        assert_eq!(heard.lock().unwrap().len(), 0, "{name}");
    }
    // The same server with the right chain does get it: the test can tell.
    let right = leaf(&hub.hub_ca, gateway, day);
    let (address, heard) = impostor(&right, &real_ca).await;
    let joining = tokio::spawn(async move { try_join(address, &token).await });
    until("the token arrives", || {
        String::from_utf8_lossy(&heard.lock().unwrap()).contains("fpj1.")
    })
    .await;
    joining.abort();
}

#[tokio::test]
async fn another_name_than_the_configured_one_is_refused() {
    let hub = Hub::new();
    let token = hub.token("t1", 10);
    let gateway = hub.gateway(None, NO_ARTIFACTS).await;
    let machine = Machine::new(gateway.address, Some(&token));
    farplane_agent::files::private_directory(&machine.agent_dir()).unwrap();
    let mut config = config(&machine);
    config.server_name = Some("gateway.other.test".into());
    let error = enrol(&config, &token, HostFacts::default())
        .await
        .unwrap_err();
    assert!(matches!(error, EnrolError::WrongHub { .. }), "{error}");
    // Without a name, as by `join --hub ADDRESS`, the pin is enough.
    config.server_name = None;
    let identity = enrol(&config, &token, HostFacts::default()).await.unwrap();
    assert_eq!(identity.server_name, "gateway.hub.test");
}

#[tokio::test]
async fn clocks_that_differ_are_named() {
    let hub = Hub::new();
    let token = hub.token("t1", 10);
    for (hours, words) in [((5, 24), "is not valid before"), ((-24, -5), "ended at")] {
        let early = leaf(&hub.hub_ca, "farplane://gateway", hours);
        let (address, heard) = impostor(&early, &hub.hub_ca.pem()).await;
        let error = try_join(address, &token).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("clocks") && text.contains(words), "{text}");
        assert!(text.contains(" h or more"), "{text}");
        assert_eq!(heard.lock().unwrap().len(), 0);
    }
}

#[tokio::test]
async fn refusals_of_the_hub_reach_the_person() {
    let hub = Hub::new();
    let gateway = hub.gateway(None, NO_ARTIFACTS).await;
    let expired = hub.token("expired", -1);
    let error = try_join(gateway.address, &expired).await.unwrap_err();
    assert!(error.to_string().contains("has expired"), "{error}");
    let mut forged = hub.token("forged", 10);
    forged.secret = "00".repeat(32);
    let error = try_join(gateway.address, &forged).await.unwrap_err();
    assert!(error.to_string().contains("is unknown"), "{error}");
    let once = hub.token("once", 10);
    try_join(gateway.address, &once).await.unwrap();
    let error = try_join(gateway.address, &once).await.unwrap_err();
    assert!(error.to_string().contains("was used already"), "{error}");
    assert!(!error.is_retryable());
    let nobody = "127.0.0.1:1".parse().unwrap();
    let error = try_join(nobody, &once).await.unwrap_err();
    assert!(
        error.to_string().contains("failed to reach the hub"),
        "{error}"
    );
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_join_whose_answer_got_lost_succeeds_when_repeated() {
    let hub = Hub::new();
    let token = hub.token("t1", 10);
    let gateway = hub.gateway(None, NO_ARTIFACTS).await;
    let machine = Machine::new(gateway.address, Some(&token));
    farplane_agent::files::private_directory(&machine.agent_dir()).unwrap();
    // Killed after the request was sent: the hub has made the host, nobody has its answer.
    let key = identity::pending_key(&machine.agent_dir()).unwrap();
    let request = JoinRequest {
        token: token.to_string(),
        host: "one".into(),
        csr: identity::request(&key).unwrap(),
        facts: HostFacts::default(),
    };
    join::enrol(&gateway.gateway, &request).await.unwrap();
    let identity = enrol(&config(&machine), &token, HostFacts::default())
        .await
        .unwrap();
    assert!(identity.identity.ends_with(UID));
    assert_eq!(identity.key, key.serialize_pem());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_replaced_in_the_file_is_used() {
    let hub = Hub::new();
    let gateway = hub.gateway(None, NO_ARTIFACTS).await;
    let machine = Machine::new(gateway.address, Some(&hub.token("old", -1)));
    let agent = machine.start();
    until("the old one is refused", || {
        let status = machine.status();
        status
            .problems
            .get("enrolment")
            .is_some_and(|it| it.contains("has expired"))
    })
    .await;
    // Half-written files of somebody at work do not end the agent.
    std::fs::write(&machine.config, "hub: ").unwrap();
    machine.configure(gateway.address, Some(&hub.token("new", 10)));
    until("the host joins", || hub.host().is_some()).await;
    until("it is running", || machine.status().phase == "running").await;
    stop(agent).await;
}

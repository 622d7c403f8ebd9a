//! Builds against a real etcd and API server, with real storage, fetcher and builder.
//!
//! Ignored unless asked for, as it needs `etcd` and `kube-apiserver` in the directory that
//! `FARPLANE_TEST_BIN` names.

use std::io::{Cursor, Read as _};
use std::time::Duration;

use farplane_functions_types::{Checksum, Environment, Package};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;
use tokio::sync::oneshot;

use crate::place::Builder;
use crate::testing::{World, eventually, source};

const LONG: Duration = Duration::from_secs(60);
const COPY: &str = "cp -r $SRC_PKG $DEPLOY_PKG";

fn condition(package: &Package, type_: &str) -> String {
    let status = package.status.as_ref().unwrap();
    let one = status.conditions.iter().find(|one| one.type_ == type_);
    let one = one.unwrap();
    format!("{}={}", one.status, one.reason)
}

fn log(package: &Package) -> &str {
    &package.status.as_ref().unwrap().build_log
}

/// Words that a package's status has in turn, from before `ready` is told: the list comes by
/// the watch itself, so that nothing happens between them, and a young API server's «too old
/// resource version» is over by then.
async fn words(api: Api<Package>, ready: oneshot::Sender<()>, until: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut ready = Some(ready);
    let mut events = watcher(api, watcher::Config::default().streaming_lists()).boxed();
    while let Some(event) = events.next().await {
        let word = match event {
            Ok(Event::InitDone) => {
                let _ = ready.take().map(|ready| ready.send(()));
                continue;
            }
            Ok(Event::Apply(package)) => package.status.unwrap_or_default().build_status,
            Err(error) if ready.is_none() => panic!("a watch that runs ends: {error}"),
            _ => continue,
        };
        if !word.is_empty() && words.last() != Some(&word) {
            words.push(word);
        }
        if words.last().is_some_and(|word| word == until) {
            break;
        }
    }
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_source_becomes_a_package_that_can_be_downloaded() {
    let world = World::start(LONG).await;
    world.environment("python").await;
    let (ready, watched) = oneshot::channel();
    let seen = tokio::spawn(words(world.api(), ready, "succeeded"));
    watched.await.unwrap();
    world
        .package(
            "p",
            &format!("echo building; {COPY}; echo made > $DEPLOY_PKG/made"),
        )
        .await;
    let manager = world.manager();
    let package = world.status("p", "succeeded").await;
    let seen = seen.await.unwrap();
    let whole = ["pending", "running", "succeeded"];
    // `pending` is said only where the builder is not there yet.
    assert!(whole == *seen || whole[1..] == *seen, "{seen:?}");
    assert_eq!(log(&package), "building\n");
    assert_eq!(condition(&package, "BuildSucceeded"), "True=BuildSucceeded");
    assert_eq!(condition(&package, "Ready"), "True=BuildSucceeded");
    assert!(
        package.spec.deployment.url.contains("%2F_tenant_%2Fns%2F"),
        "it is the tenant's own"
    );
    let bytes = world.download(&package).await;
    assert_eq!(package.spec.deployment.checksum, Checksum::of(&bytes));
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut made = String::new();
    archive
        .by_name("made")
        .unwrap()
        .read_to_string(&mut made)
        .unwrap();
    assert_eq!(made, "made\n");
    eventually("the builder to be clean", async || {
        (world.packages.read_dir().unwrap().count() == 0).then_some(())
    })
    .await;

    // Another of the same content, and a package without a source.
    let deployed = world
        .create::<Package>("d", json!({ "deployment": { "literal": "eA==" } }))
        .await;
    let settled = world.status("d", "none").await;
    assert_eq!(condition(&settled, "Ready"), "True=NothingToBuild");
    assert_eq!(settled.spec, deployed.spec);
    manager.end().await;
    // Nothing is built again by the next manager.
    let manager = world.manager();
    world
        .create::<Package>("e", json!({ "deployment": { "literal": "eA==" } }))
        .await;
    world.status("e", "none").await;
    let same = world.api::<Package>().get("p").await.unwrap();
    assert_eq!(same.resource_version(), package.resource_version());
    manager.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_build_that_fails_or_never_ends_says_so_and_a_new_source_mends_it() {
    let world = World::start(Duration::from_secs(2)).await;
    let manager = world.manager();
    world.package("p", "echo trying; exit 3").await;
    let waiting = world.status("p", "pending").await;
    assert_eq!(
        condition(&waiting, "BuildSucceeded"),
        "Unknown=EnvironmentMissing"
    );
    world.environment("python").await;
    let failed = world.status("p", "failed").await;
    assert_eq!(
        log(&failed),
        "trying\nthe build command failed: exit status: 3\n"
    );
    assert_eq!(condition(&failed, "BuildSucceeded"), "False=BuildFailed");

    let patch = json!({ "spec": { "source": source(COPY) } });
    world.patch::<Package>("p", patch).await;
    world.status("p", "succeeded").await;

    world.package("endless", "echo begun; sleep 3600").await;
    let stopped = world.status("endless", "failed").await;
    assert!(log(&stopped).starts_with("begun\n"), "{}", log(&stopped));
    assert!(
        log(&stopped).contains("did not end within 2 s"),
        "{}",
        log(&stopped)
    );

    let patch = json!({ "spec": { "source": { "literal": "UEsDBA==" } } });
    world.patch::<Package>("endless", patch).await;
    let broken = eventually("the broken archive to be told", async || {
        let package = world.api::<Package>().get("endless").await.ok()?;
        log(&package)
            .contains("cannot be read as a zip")
            .then_some(package)
    })
    .await;
    assert_eq!(condition(&broken, "Ready"), "False=BuildFailed");
    manager.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_manager_that_is_killed_in_a_build_is_followed_by_one_that_builds() {
    let world = World::start(LONG).await;
    world.environment("python").await;
    // Waits for a file the first time.
    let (mark, go) = (world.packages.join("mark"), world.packages.join("go"));
    let script = format!(
        "echo x >> {}; until [ -e {} ]; do sleep 0.05; done; {COPY}",
        mark.display(),
        go.display()
    );
    world.package("p", &script).await;
    let runs = || {
        std::fs::read_to_string(&mark)
            .unwrap_or_default()
            .lines()
            .count()
    };
    let first = world.manager();
    eventually("the build to run", async || (runs() == 1).then_some(())).await;
    world.status("p", "running").await;
    first.kill().await;
    let second = world.manager();
    eventually("the build to run again", async || {
        (runs() == 2).then_some(())
    })
    .await;
    std::fs::write(&go, "").unwrap();
    world.status("p", "succeeded").await;
    assert_eq!(runs(), 2);
    second.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_source_that_changes_stops_the_build_of_the_old_one() {
    let world = World::start(LONG).await;
    world.environment("python").await;
    let mark = world.packages.join("mark");
    let script = format!("echo old > {}; sleep 3600", mark.display());
    world.package("p", &script).await;
    let manager = world.manager();
    eventually("the old build to run", async || mark.exists().then_some(())).await;
    let patch = json!({ "spec": { "source": source(&format!("echo new; {COPY}")) } });
    world.patch::<Package>("p", patch).await;
    let package = world.status("p", "succeeded").await;
    assert_eq!(log(&package), "new\n");

    // One that is deleted is stopped too.
    std::fs::remove_file(&mark).unwrap();
    let script = format!("echo $$ > {}; sleep 3600", mark.display());
    world.package("q", &script).await;
    eventually("the build to run", async || mark.exists().then_some(())).await;
    world
        .api::<Package>()
        .delete("q", &DeleteParams::default())
        .await
        .unwrap();
    let pid = std::fs::read_to_string(&mark).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    eventually("the build to be stopped", async || {
        let status = std::fs::read_to_string(&stat);
        (!status.is_ok_and(|status| !status.contains(") Z "))).then_some(())
    })
    .await;
    manager.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_builder_that_is_away_is_waited_for_and_tried_again() {
    let world = World::start(LONG).await;
    world.environment("python").await;
    *world.builder.lock().unwrap() = Builder::NotReady("no such image".to_owned());
    let manager = world.manager();
    world.package("p", COPY).await;
    let waiting = world.status("p", "pending").await;
    let waits = eventually("the trouble to be told", async || {
        let package = world.api::<Package>().get("p").await.ok()?;
        log(&package).contains("no such image").then_some(package)
    })
    .await;
    assert_eq!(
        condition(&waits, "BuildSucceeded"),
        "Unknown=BuilderNotReady"
    );
    assert_eq!(waiting.uid(), waits.uid());
    // It is said to be ready, and is not there.
    let nowhere = "127.0.0.1:1".parse().unwrap();
    *world.builder.lock().unwrap() = Builder::Ready {
        fetcher: nowhere,
        builder: nowhere,
    };
    world
        .patch::<Package>("p", json!({ "metadata": { "labels": { "a": "b" } } }))
        .await;
    let tried = eventually("an attempt", async || {
        let package = world.api::<Package>().get("p").await.ok()?;
        log(&package)
            .starts_with("attempt 1 of 5")
            .then_some(package)
    })
    .await;
    assert!(log(&tried).contains("cannot be reached"), "{}", log(&tried));
    *world.builder.lock().unwrap() = world.real.clone();
    world.status("p", "succeeded").await;
    manager.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_fetcher_reads_values_and_packages_of_its_own_namespace_only() {
    let world = World::start(LONG).await;
    let values = json!({ "metadata": { "name": "s" }, "stringData": { "key": "secret" } });
    world.create_raw::<Secret>(values).await;
    let values = json!({
        "metadata": { "name": "c" }, "data": { "key": "config" }, "binaryData": { "bin": "AAE=" },
    });
    world.create_raw::<ConfigMap>(values).await;
    world
        .create::<Package>("p", json!({ "deployment": { "literal": "Y29kZQ==" } }))
        .await;
    let fetcher = world.fetcher().await;
    let reference =
        |name: &str, mount: &str| json!({ "namespace": "ns", "name": name, "mountPath": mount });
    let mut request = json!({
        "fetchType": 1, "filename": "deployarchive", "package": { "namespace": "ns", "name": "p" },
        "secretList": [reference("s", ""), reference("s", "a/b")],
        "configMapList": [reference("c", "")],
    });
    fetcher.fetch(&request).await.unwrap();
    assert_eq!(fetcher.read("shared/deployarchive"), b"code");
    assert_eq!(fetcher.read("secrets/ns/s/key"), b"secret");
    assert_eq!(fetcher.read("secrets/a/b/key"), b"secret");
    assert_eq!(fetcher.read("configs/ns/c/key"), b"config");
    assert_eq!(fetcher.read("configs/ns/c/bin"), [0, 1]);
    // Again, as after a restart.
    fetcher.fetch(&request).await.unwrap();

    for (secrets, words) in [
        (
            json!([{ "namespace": "default", "name": "s" }]),
            "may only read namespace ns",
        ),
        (
            json!([reference("missing", "")]),
            "failed to read secret missing",
        ),
        (json!([reference("s", "../../etc")]), "climbs out"),
        (json!([reference("s", "/etc")]), "absolute"),
        (
            json!([reference("s", "x"), reference("s", "./x")]),
            "both have a value for x/key",
        ),
    ] {
        request["secretList"] = secrets;
        let said = fetcher.fetch(&request).await.unwrap_err();
        assert!(said.contains(words), "{words}: {said}");
    }
    request["secretList"] = json!([]);
    request["filename"] = json!("other");
    request["package"]["namespace"] = json!("default");
    let said = fetcher.fetch(&request).await.unwrap_err();
    assert!(said.contains("may only read namespace ns"), "{said}");
    request["package"] = json!({ "name": "unbuilt" });
    let source = json!({ "source": { "literal": "eA==" } });
    world.create::<Package>("unbuilt", source).await;
    let said = fetcher.fetch(&request).await.unwrap_err();
    assert!(said.contains("no code to run"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn an_environment_has_one_builder_as_long_as_it_names_an_image() {
    let world = World::start(LONG).await;
    let manager = world.manager();
    let made = world.environment("python").await;
    let names = async || -> (Vec<String>, Vec<String>) {
        let labels = ListParams::default().labels("owner=buildermgr,envName=python");
        let deployments = world.api::<Deployment>().list(&labels).await.unwrap();
        let services = world.api::<Service>().list(&labels).await.unwrap();
        (
            deployments.iter().map(ResourceExt::name_any).collect(),
            services.iter().map(ResourceExt::name_any).collect(),
        )
    };
    let only = |environment: &Environment| {
        let name = format!("python-{}", environment.resource_version().unwrap());
        (vec![name.clone()], vec![name])
    };
    let first = only(&made);
    eventually("a builder", async || (names().await == first).then_some(())).await;
    let patch = json!({ "spec": { "builder": { "image": "other" } } });
    let changed = world.patch::<Environment>("python", patch).await;
    let second = only(&changed);
    eventually("the new builder alone", async || {
        (names().await == second).then_some(())
    })
    .await;
    // What somebody deletes is made again.
    let deployments = world.api::<Deployment>();
    deployments
        .delete(&second.0[0], &DeleteParams::default())
        .await
        .unwrap();
    eventually("the builder to be back", async || {
        (names().await == second).then_some(())
    })
    .await;
    let patch = json!({ "spec": { "builder": { "image": null } } });
    world.patch::<Environment>("python", patch).await;
    eventually("no builder", async || {
        (names().await == (vec![], vec![])).then_some(())
    })
    .await;
    world.package("p", COPY).await;
    let failed = world.status("p", "failed").await;
    assert_eq!(condition(&failed, "Ready"), "False=NoBuilder");
    world
        .patch::<Environment>("python", json!({ "spec": { "builder": { "image": "b" } } }))
        .await;
    world.status("p", "succeeded").await;
    manager.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn every_package_that_is_there_at_the_start_is_looked_at() {
    let world = World::start(LONG).await;
    let names: Vec<String> = (0..20).map(|number| format!("p-{number}")).collect();
    for name in &names {
        world
            .create::<Package>(name, json!({ "deployment": { "literal": "eA==" } }))
            .await;
    }
    let manager = world.manager();
    for name in &names {
        world.status(name, "none").await;
    }
    manager.end().await;
}

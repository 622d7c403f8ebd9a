//! Many cold calls at once.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_burst_never_makes_more_instances_than_allowed_and_gets_pods_beside_the_pool() {
    let (server, cluster, executor) = scene(1).await;
    let limited = function(&server, "limited", json!({ "concurrency": 3 })).await;
    let known: Vec<&str> = Vec::new();
    let calls = (0..40).map(|_| executor.instance(&limited, &known));
    let answers = futures::future::join_all(calls).await;
    let addresses: BTreeSet<String> = answers
        .into_iter()
        .map(|answer| answer.unwrap().address)
        .collect();
    assert!(addresses.len() <= 3, "{addresses:?}");
    let all: Vec<&str> = addresses.iter().map(String::as_str).collect();
    if all.len() == 3 {
        let (status, failure) = executor.instance(&limited, &all).await.unwrap_err();
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{failure:?}");
    }
    assert!(cluster.specialised() <= 3);
    // Ten functions at once, a pool of one.
    let mut functions = Vec::new();
    for number in 0..10 {
        functions.push(function(&server, &format!("many-{number}"), json!({})).await);
    }
    let calls = functions.iter().map(|one| executor.instance(one, &[]));
    let answers = futures::future::join_all(calls).await;
    let addresses: BTreeSet<String> = answers
        .into_iter()
        .map(|answer| answer.unwrap().address)
        .collect();
    assert_eq!(addresses.len(), 10);
    // The pool is what it was, and as much beside it as its size allows.
    let kept = eventually("a pool of one and three Pods beside it", async || {
        let generic = cluster.generic().await;
        let stays = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none();
        let left: Vec<&Pod> = generic.iter().filter(stays).collect();
        let pooled = left
            .iter()
            .filter(|pod| pod.labels().contains_key(label::POOL));
        let address = |pod: &&Pod| Some(format!("{}:8888", pod.status.clone()?.pod_ip?));
        let addresses: Option<BTreeSet<String>> = left.iter().map(address).collect();
        addresses.filter(|all| all.len() == 4 && pooled.count() == 1)
    })
    .await;
    // The next burst finds them.
    let mut functions = Vec::new();
    for number in 0..4 {
        functions.push(function(&server, &format!("more-{number}"), json!({})).await);
    }
    let calls = functions.iter().map(|one| executor.instance(one, &[]));
    let answers = futures::future::join_all(calls).await;
    let addresses: BTreeSet<String> = answers
        .into_iter()
        .map(|answer| answer.unwrap().address)
        .collect();
    assert_eq!(addresses, kept);
    executor.end().await;
}

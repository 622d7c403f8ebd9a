//! Many cold calls at once.

use super::*;

/// Addresses of the instances that calls of all these functions at once get.
async fn at_once(executor: &Process, functions: &[Function]) -> BTreeSet<String> {
    let calls = functions.iter().map(|one| executor.instance(one, &[]));
    let answers = futures::future::join_all(calls).await;
    let addresses = answers.into_iter().map(|answer| answer.unwrap().address);
    addresses.collect()
}

async fn functions(server: &World, prefix: &str, count: usize) -> Vec<Function> {
    let mut made = Vec::new();
    for number in 0..count {
        made.push(function(server, &format!("{prefix}-{number}"), json!({})).await);
    }
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_burst_never_makes_more_instances_than_allowed_and_gets_pods_beside_the_pool() {
    let (server, cluster, executor) = scene(1).await;
    let limited = function(&server, "limited", json!({ "concurrency": 3 })).await;
    let addresses = at_once(&executor, &vec![limited.clone(); 40]).await;
    assert!(addresses.len() <= 3, "{addresses:?}");
    let all: Vec<&str> = addresses.iter().map(String::as_str).collect();
    if all.len() == 3 {
        let (status, failure) = executor.instance(&limited, &all).await.unwrap_err();
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{failure:?}");
    }
    assert!(cluster.specialised() <= 3);
    // Ten functions at once, a pool of one.
    let many = functions(&server, "many", 10).await;
    let addresses = at_once(&executor, &many).await;
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
    let more = functions(&server, "more", 4).await;
    let addresses = at_once(&executor, &more).await;
    assert_eq!(addresses, kept);
    executor.end().await;
}

//! Real containers under a real containerd: they outlive its restarts and the agent's, and
//! end with the plan.

use std::path::{Path, PathBuf};

use farplane_types::{Readiness, Unit};

use super::machine::{is_inside, run, tmpfs};
use super::support::{
    Artifact, World, applied, clean, cleanup, eventually, file, plan, running_below, sleeping,
    text_file, wanted,
};
use crate::units::Wanted;

/// The directory with containerd, containerd-shim-runc-v2, ctr and runc.
const PROGRAMS: &str = "FARPLANE_TEST_BIN";
/// Where `ctr` lets runc keep its states.
const RUNC_ROOT: &str = "/run/containerd/runc/k8s.io";

fn programs(world: &World) -> Artifact {
    let directory = PathBuf::from(std::env::var(PROGRAMS).expect(PROGRAMS));
    let names = ["containerd", "containerd-shim-runc-v2", "ctr", "runc"];
    let contents = names.map(|name| std::fs::read(directory.join(name)).unwrap());
    let entries = names
        .iter()
        .zip(&contents)
        .map(|(name, content)| file(name, content, 0o755));
    world.artifact("containerd", &entries.collect::<Vec<_>>())
}

fn containerd(world: &World, programs: &Artifact, level: &str) -> Vec<Unit> {
    let (root, state) = (world.text("containerd/root"), world.text("containerd/run"));
    let (socket, config) = (
        format!("{state}/containerd.sock"),
        world.text("plane/containerd.toml"),
    );
    let text = format!(
        "version = 3\nroot = '{root}'\nstate = '{state}'\nimports = []\n\
         disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', \
         'io.containerd.cri.v1.runtime', 'io.containerd.nri.v1.nri']\n\
         [debug]\nlevel = '{level}'\n[grpc]\naddress = '{socket}'\n\
         [plugins.'io.containerd.internal.v1.opt']\npath = '{root}/opt'\n",
    );
    let mut process = sleeping(
        "containerd",
        &programs.path("containerd"),
        &[format!("file{config}")],
    );
    if let Unit::Process {
        command,
        environment,
        readiness,
        ..
    } = &mut process
    {
        command[1] = format!("--config={config}");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.path(""));
        environment.insert("PATH".to_owned(), path);
        *readiness = Some(Readiness::UnixSocket(socket));
    }
    let mut clean_up = cleanup();
    if let Unit::Cleanup {
        commands,
        directories,
        ..
    } = &mut clean_up
    {
        let runc = programs.path("runc");
        // What is left of ended containers, cgroups among it.
        let delete = format!(
            "for one in {RUNC_ROOT}/*; do {runc} --root {RUNC_ROOT} delete --force ${{one##*/}}; done"
        );
        commands.push(vec!["/bin/sh".to_owned(), "-c".to_owned(), delete]);
        directories.extend([world.text("containerd"), RUNC_ROOT.to_owned()]);
    }
    vec![
        programs.unit(),
        text_file(&config, &text),
        process,
        clean_up,
    ]
}

/// A root directory with nothing but a program that sleeps.
fn root(world: &World) -> PathBuf {
    let root = world.path("root");
    let listed = run(&["ldd", "/bin/sleep"]);
    let libraries = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for path in libraries.chain(["/bin/sleep"]) {
        let to = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(path, to).unwrap();
    }
    root
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs containerd and runc in FARPLANE_TEST_BIN"]
async fn containers_outlive_restarts_and_end_with_the_plan() {
    if !is_inside("containers::containers_outlive_restarts_and_end_with_the_plan") {
        return;
    }
    let world = World::new();
    tmpfs(Path::new("/run"));
    let engine = world.engine();
    let programs = programs(&world);
    engine.want(wanted(
        1,
        &plan("small", containerd(&world, &programs, "info")),
    ));
    applied(&engine, 1).await;

    let root = root(&world);
    let socket = world.text("containerd/run/containerd.sock");
    for name in ["one", "two"] {
        let ctr = programs.path("ctr");
        run(&[
            &ctr,
            "--address",
            &socket,
            "--namespace",
            "k8s.io",
            "run",
            "--detach",
            "--rootfs",
            "--cgroup",
            &format!("/farplane-test-{name}"),
            "--runc-binary",
            &programs.path("runc"),
            root.to_str().unwrap(),
            name,
            "/bin/sleep",
            "infinity",
        ]);
    }
    let shims = || shims(&programs);
    let containers = || children(&shims());
    assert_eq!((shims().len(), containers().len()), (2, 2));
    let before = (shims(), containers());

    engine.want(wanted(
        2,
        &plan("small", containerd(&world, &programs, "warn")),
    ));
    applied(&engine, 2).await;
    assert_eq!((shims(), containers()), before, "a restart of containerd");
    engine.stop().await;
    let engine = world.engine();
    applied(&engine, 2).await;
    assert_eq!((shims(), containers()), before, "a restart of the agent");
    // As network namespaces and volumes are.
    tmpfs(&world.path("containerd/run/netns/cni-1"));

    let begun = std::time::Instant::now();
    engine.want(Wanted::Nothing);
    clean(&engine).await;
    println!("undone in {:?}", begun.elapsed());
    let gone = |pid: &i32| !Path::new(&format!("/proc/{pid}")).exists();
    eventually("gone", || before.0.iter().chain(&before.1).all(gone)).await;
    assert_eq!(world.running(), Vec::<i32>::new());
    assert!(!run(&["cat", "/proc/self/mountinfo"]).contains(&world.text("containerd")));
    assert!(!world.path("containerd").exists() && !Path::new(RUNC_ROOT).exists());
    let listed = run(&["find", "/sys/fs/cgroup", "-name", "farplane-test-*"]);
    assert_eq!(listed, "");
    assert_eq!(world.left(), Vec::<String>::new());
}

fn shims(programs: &Artifact) -> Vec<i32> {
    let all = running_below(Path::new(&programs.path("")));
    let is_shim = |pid: &i32| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
        exe.is_ok_and(|exe| exe.ends_with("containerd-shim-runc-v2"))
    };
    all.into_iter().filter(is_shim).collect()
}

fn children(parents: &[i32]) -> Vec<i32> {
    let list = |pid: &i32| run(&["ps", "-o", "pid=", "--ppid", &pid.to_string()]);
    let mut all: Vec<i32> = parents
        .iter()
        .flat_map(|pid| {
            list(pid)
                .split_whitespace()
                .map(|pid| pid.parse().unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    all.sort_unstable();
    all
}

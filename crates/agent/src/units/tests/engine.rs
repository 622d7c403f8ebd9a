//! Plans applied, changed and undone by a real engine.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use farplane_types::{HostPlanSpec, Unit};

use super::support::{
    World, applied, clean, cleanup, directory, eventually, failure, file, plan, sleeping,
    text_file, until, wanted,
};
use crate::units::{Engine, Error, State, Wanted};

/// A small plane: an artifact, files, two processes, something to clean.
fn small(world: &World, version: &str, config: &str) -> Arc<HostPlanSpec> {
    let sleeper = world.sleeper(version);
    let file = world.text("plane/config");
    let restart_on = [format!("file{file}")];
    let mut clean = cleanup();
    if let Unit::Cleanup { directories, .. } = &mut clean {
        directories.push(world.text("left/behind"));
    }
    plan(
        "small",
        vec![
            sleeper.unit(),
            directory(&world.text("plane")),
            text_file(&file, config),
            Unit::Link {
                path: world.text("plane/link"),
                target: "config".to_owned(),
            },
            sleeping("one", &sleeper.path("sleeper"), &restart_on),
            sleeping("two", &sleeper.path("sleeper"), &[]),
            clean,
        ],
    )
}

fn read(world: &World, name: &str) -> String {
    std::fs::read_to_string(world.path(name)).unwrap()
}

/// Undoes what is there and sees that nothing is left.
pub async fn undone(world: &World, engine: &Engine) {
    engine.want(Wanted::Nothing);
    clean(engine).await;
    assert_eq!(world.left(), Vec::<String>::new());
    assert_eq!(world.running(), Vec::<i32>::new());
    assert!(!world.path("plane").exists());
    assert_eq!(*engine.plan().borrow(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_becomes_true_and_is_undone_to_nothing() {
    let world = World::new();
    let engine = world.engine();
    assert_eq!(*engine.state().borrow(), State::Unknown);
    let spec = small(&world, "1", "first");
    engine.want(wanted(1, &spec));
    applied(&engine, 1).await;
    assert_eq!(*engine.plan().borrow(), Some(spec));
    assert_eq!(read(&world, "plane/link"), "first");
    let mode = |name| world.path(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (
            mode("plane/config"),
            mode("plane"),
            mode("state/agent/plan.json")
        ),
        (0o600, 0o700, 0o600)
    );
    world.runs(2).await;
    std::fs::create_dir_all(world.path("left/behind/deep")).unwrap();
    undone(&world, &engine).await;
    assert!(!world.path("left/behind").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_wanted_of_an_untouched_machine_is_clean() {
    let world = World::new();
    let engine = world.engine();
    undone(&world, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_on_disk_goes_on_without_the_hub() {
    let world = World::new();
    let first = world.engine();
    first.want(wanted(7, &small(&world, "1", "first")));
    applied(&first, 7).await;
    let running = world.runs(2).await;
    first.stop().await;
    assert_eq!(world.running(), running, "processes outlive the agent");
    std::fs::write(world.path("plane/config"), "changed by hand").unwrap();
    let second = world.engine();
    applied(&second, 7).await;
    assert_eq!(world.running(), running, "and are adopted");
    assert_eq!(read(&world, "plane/config"), "first");
    undone(&world, &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_restarts_only_what_depends_on_it() {
    let world = World::new();
    let engine = world.engine();
    engine.want(wanted(1, &small(&world, "1", "first")));
    applied(&engine, 1).await;
    let before = world.runs(2).await;
    engine.want(wanted(2, &small(&world, "1", "second")));
    applied(&engine, 2).await;
    let after = world.runs(2).await;
    assert_eq!(read(&world, "plane/config"), "second");
    let same: Vec<_> = before.iter().filter(|pid| after.contains(pid)).collect();
    assert_eq!(same.len(), 1, "{before:?} {after:?}");
    undone(&world, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_plan_again_restarts_nothing_and_repairs() {
    let world = World::new();
    let engine = world.engine();
    let spec = small(&world, "1", "first");
    engine.want(wanted(1, &spec));
    applied(&engine, 1).await;
    let before = world.runs(2).await;
    std::fs::remove_file(world.path("plane/config")).unwrap();
    engine.want(wanted(2, &spec));
    applied(&engine, 2).await;
    eventually("repaired", || world.path("plane/config").exists()).await;
    assert_eq!(world.running(), before);
    undone(&world, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_the_plan_is_undone_and_old_artifacts_go() {
    let world = World::new();
    let engine = world.engine();
    engine.want(wanted(1, &small(&world, "1", "first")));
    applied(&engine, 1).await;
    let old = world.sleeper("1");
    let new = world.sleeper("2");
    let units = vec![
        new.unit(),
        directory(&world.text("plane")),
        sleeping("one", &new.path("sleeper"), &[]),
    ];
    engine.want(wanted(2, &plan("small", units)));
    applied(&engine, 2).await;
    eventually("tidied", || {
        !world.path("plane/config").exists()
            && !world.path("plane/link").is_symlink()
            && !Path::new(&old.path("")).exists()
    })
    .await;
    world.runs(1).await;
    std::fs::create_dir_all(world.path("left/behind")).unwrap();
    undone(&world, &engine).await;
    assert!(
        !world.path("left/behind").exists(),
        "a clean-up that left the plan is not forgotten"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_plane_begins_when_the_first_is_undone() {
    let world = World::new();
    let engine = world.engine();
    engine.want(wanted(5, &small(&world, "1", "first")));
    applied(&engine, 5).await;
    let before = world.runs(2).await;
    let sleeper = world.sleeper("1");
    let other = world.text("other/file");
    let units = vec![
        sleeper.unit(),
        directory(&world.text("other")),
        text_file(&other, "other"),
        sleeping("one", &sleeper.path("sleeper"), &[]),
    ];
    engine.want(wanted(1, &plan("other", units)));
    applied(&engine, 1).await;
    assert!(!world.path("plane").exists());
    let after = world.runs(1).await;
    assert!(!before.contains(&after[0]), "{before:?} {after:?}");
    engine.want(Wanted::Removed);
    clean(&engine).await;
    assert_eq!(world.left(), Vec::<String>::new());
    assert!(!world.path("other").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_unit_says_why_and_is_tried_again() {
    let world = World::new();
    let engine = world.engine();
    std::fs::create_dir_all(world.path("plane/config/in-the-way")).unwrap();
    engine.want(wanted(1, &small(&world, "1", "first")));
    let key = format!("file{}", world.text("plane/config"));
    let message = failure(&engine, &key).await;
    assert!(message.contains("a directory is in the way"), "{message}");
    assert_eq!(
        world.running(),
        Vec::<i32>::new(),
        "processes wait for files before them"
    );
    std::fs::remove_dir_all(world.path("plane/config")).unwrap();
    applied(&engine, 1).await;
    undone(&world, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn optional_kernel_features_do_not_stop_a_plan() {
    let world = World::new();
    let engine = world.engine();
    let units = vec![
        Unit::KernelModule {
            name: "no_such_module".to_owned(),
            optional: true,
        },
        Unit::Sysctl {
            key: "no.such.setting".to_owned(),
            value: "1".to_owned(),
            optional: true,
        },
        directory(&world.text("plane")),
    ];
    engine.want(wanted(1, &plan("small", units)));
    let State::Report(report) = applied(&engine, 1).await else {
        panic!()
    };
    assert!(
        report.units[0].message.contains("no_such_module"),
        "{report:?}"
    );
    assert!(report.units[1].message.contains("no setting"), "{report:?}");
    let units = vec![Unit::KernelModule {
        name: "no_such_module".to_owned(),
        optional: false,
    }];
    engine.want(wanted(2, &plan("small", units)));
    failure(&engine, "module/no_such_module").await;
    undone(&world, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plan_may_not_name_is_refused_and_survives_the_undo() {
    let world = World::new();
    let engine = world.engine();
    std::fs::create_dir(world.path("mine")).unwrap();
    std::fs::write(world.path("mine/file"), "mine").unwrap();
    let sneaky = world.text("plane/../mine/file");
    let units = vec![
        text_file(&sneaky, "stolen"),
        text_file("relative/file", "x"),
        directory("/var/lib"),
        directory(&world.text("state")),
        directory(&world.text("state/agent")),
        sleeping("no", "sleep", &[]),
    ];
    let count = units.len();
    engine.want(wanted(1, &plan("small", units)));
    let refused = |state: &State| match state {
        State::Report(report) => report
            .units
            .iter()
            .filter(|unit| unit.message.starts_with("refused"))
            .count(),
        _ => 0,
    };
    until(&engine, "refused", |state| refused(state) == count).await;
    undone(&world, &engine).await;
    assert_eq!(read(&world, "mine/file"), "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_clean_up_commands_are_not_in_the_way() {
    let world = World::new();
    let engine = world.engine();
    let shell = |script: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
    let (one, two) = (world.text("one"), world.text("two"));
    let clean = Unit::Cleanup {
        name: "all".to_owned(),
        commands: vec![
            shell(format!("touch {one}; exit 3")),
            shell(format!("touch {two}")),
        ],
        interfaces: vec!["fp-absent0".to_owned()],
        tables: vec!["inet farplane-absent".to_owned()],
        directories: vec![world.text("absent")],
    };
    engine.want(wanted(1, &plan("small", vec![clean])));
    applied(&engine, 1).await;
    assert!(
        !world.path("one").exists(),
        "nothing runs while the plan is there"
    );
    undone(&world, &engine).await;
    assert!(world.path("one").exists() && world.path("two").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_never_share_a_machine() {
    let world = World::new();
    let first = world.engine();
    let second = Engine::start(&world.state_dir(), world.hub.clone());
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    first.stop().await;
    world.engine().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_named_and_kept() {
    let world = World::new();
    std::fs::create_dir_all(world.path("state/agent")).unwrap();
    std::fs::write(world.path("state/agent/plan.json"), "{").unwrap();
    let engine = Engine::start(&world.state_dir(), world.hub.clone());
    assert!(
        matches!(engine, Err(Error::ParseRecord { .. })),
        "{engine:?}"
    );
    assert_eq!(read(&world, "state/agent/plan.json"), "{");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_imported_once_when_the_socket_answers() {
    let world = World::new();
    let engine = world.engine();
    // Stands for `ctr`: what is imported is listed afterwards.
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {log}\ncase \"$*\" in *list*) cat {images} 2>/dev/null; true;; \
         *import*) cat \"$7\" > {images};; esac\n",
        log = world.text("calls"),
        images = world.text("images"),
    );
    let tool = world.artifact(
        "tool",
        &[
            file("ctr", script.as_bytes(), 0o755),
            file("image.tar", b"example.test/pause:1\n", 0o644),
        ],
    );
    let image = |reference: &str| Unit::Image {
        reference: reference.to_owned(),
        archive: tool.path("image.tar"),
        ctr: tool.path("ctr"),
        socket: world.text("socket"),
    };
    let good = plan("small", vec![tool.unit(), image("example.test/pause:1")]);
    engine.want(wanted(1, &good));
    until(&engine, "waiting", |state| {
        matches!(state, State::Report(report) if report.units.iter().any(|unit| unit.message.contains("once")))
    })
    .await;
    let _socket = std::os::unix::net::UnixListener::bind(world.path("socket")).unwrap();
    applied(&engine, 1).await;
    let imports = read(&world, "calls").matches("import").count();
    assert_eq!(imports, 1);
    engine.want(wanted(
        2,
        &plan("small", vec![tool.unit(), image("example.test/other:1")]),
    ));
    let message = failure(&engine, "image/example.test/other:1").await;
    assert!(message.contains("does not hold"), "{message}");
    undone(&world, &engine).await;
}

//! A hub on this machine, from nothing to nothing.
use farplane_embedded::*;
use std::path::PathBuf;
#[tokio::main]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    if a.get(1).map(String::as_str) == Some("internal") {
        if let Err(e) = supervisor_main(
            HubName::new(&a[4]).unwrap(),
            PathBuf::from(&a[6]),
            PathBuf::from(&a[8]),
        )
        .await
        {
            eprintln!("{e:?}");
            std::process::exit(1);
        }
        return;
    }
    let Some(dist) = std::env::var_os("FARPLANE_DIST") else {
        return;
    };
    let name = HubName::new(a.get(2).cloned().unwrap_or("t-embed".into())).unwrap();
    let mut o = UpOptions::new(name.clone());
    o.dist = dist.into();
    o.chart = std::env::var_os("FARPLANE_CHART").unwrap().into();
    let t = std::time::Instant::now();
    let p = move |e: Event| println!("{:7.2?} {e:?}", t.elapsed());
    let r = match a.get(1).map(String::as_str) {
        Some("up") => up(&o, &p).await.map(|i| println!("{i:?}")),
        Some("down") => down(&name, &p).await,
        Some("purge") => purge(&name, &p).await,
        Some("status") => {
            println!("{:#?}", status(&name).await);
            Ok(())
        }
        Some("doctor") => {
            for f in doctor(&o) {
                println!("{f:?}");
            }
            Ok(())
        }
        _ => Ok(()),
    };
    println!("{:7.2?} {r:?}", t.elapsed());
}

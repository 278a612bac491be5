//! What a case file may ask for. A case is edited by hand, and a storm that cannot be as written must not be run as
//! something else: it would pass, or blame the system for what the file got wrong.

use stormglass_harness::{Case, Misfit};
use stormglass_sim::{Fault, FaultClass, Rates};

use crate::{
    plan::STORM_MS,
    shape::{BROKERS, CONSUMERS, DATABASES, NOTIFIER, OPERATOR, PROVIDER, Shape},
    workload::{Action, Basket, Operation},
};

/// Checks all of a case against its shape.
pub(crate) fn check(case: &Case, shape: &Shape, operations: &[Operation]) -> Result<(), Misfit> {
    let misfit = |at: String| move |what: String| Misfit { at, what };
    shape.check().map_err(|(field, what)| misfit(format!("cluster.{field}"))(what))?;
    rates(&case.rates).map_err(|(field, what)| misfit(format!("rates.{field}"))(what))?;
    for (index, wanted) in operations.iter().enumerate() {
        operation(wanted, shape).map_err(misfit(format!("operation[{index}]")))?;
    }
    if !case.strike.is_empty() {
        return Err(misfit("strike".to_owned())("this suite strikes by rates only".to_owned()));
    }
    let known = hosts(shape, operations);
    for (index, wanted) in case.fault.iter().enumerate() {
        fault(wanted, shape, &known).map_err(misfit(format!("fault[{index}]")))?;
    }
    Ok(())
}

fn rates(rates: &Rates) -> Result<(), (&'static str, String)> {
    let Rates { error_before, error_after, lost_ack, late } = *rates;
    let all = [
        ("error_before", error_before),
        ("error_after", error_after),
        ("lost_ack", lost_ack),
        ("late", late),
    ];
    /// Where more than this goes wrong nothing comes about, and a storm proves nothing.
    const HIGHEST: f64 = 0.5;
    match all.into_iter().find(|(_, rate)| !(0.0..=HIGHEST).contains(rate)) {
        Some((field, rate)) => Err((field, format!("{rate} is no probability from 0 to {HIGHEST}"))),
        None => Ok(()),
    }
}

fn operation(operation: &Operation, shape: &Shape) -> Result<(), String> {
    /// Whoever comes later finds the storm over, and perhaps everything settled.
    const LATEST_MS: u64 = 2 * STORM_MS;

    if operation.client >= shape.clients {
        return Err(format!("client: there are only {} clients, numbered from 0", shape.clients));
    }
    if operation.at_ms > LATEST_MS {
        return Err(format!("at_ms: {} is after {LATEST_MS}, when nobody waits for it", operation.at_ms));
    }
    match &operation.action {
        Action::Place(basket) | Action::Repeat(basket) => goods(basket, shape),
        Action::Redrive { consumer } | Action::Discard { consumer } if !CONSUMERS.contains(&&**consumer) => {
            Err(format!("no consumer is called {consumer}; they are {}", CONSUMERS.join(", ")))
        }
        Action::Cancel(_)
        | Action::Read(_)
        | Action::List { .. }
        | Action::Redrive { .. }
        | Action::Discard { .. } => Ok(()),
    }
}

fn goods(basket: &Basket, shape: &Shape) -> Result<(), String> {
    let known = |sku: &str| (0..shape.skus).any(|number| crate::workload::sku(number) == sku);
    if basket.lines.is_empty() {
        return Err(format!("{} orders nothing", basket.key));
    }
    match basket.lines.iter().find(|line| line.quantity < 1 || line.unit_price_minor < 0 || !known(&line.sku))
    {
        Some(line) => Err(format!(
            "{} asks for {} × {} at {}: quantities begin at 1, prices at 0, and {} SKUs are on sale, from {}",
            basket.key,
            line.quantity,
            line.sku,
            line.unit_price_minor,
            shape.skus,
            crate::workload::sku(0)
        )),
        None => Ok(()),
    }
}

fn fault(fault: &Fault, shape: &Shape, known: &[String]) -> Result<(), String> {
    let Fault { class, at_ms, for_ms, hosts, from, amount } = fault;
    if let Some(host) = hosts.iter().chain(from).find(|host| !known.contains(host)) {
        return Err(format!("hosts: no host is called {host}; the hosts are {}", known.join(", ")));
    }
    if *at_ms >= STORM_MS {
        return Err(format!("at_ms: {at_ms} is not before {STORM_MS}, when the storm ends"));
    }
    if *for_ms > STORM_MS {
        return Err(format!("for_ms: {for_ms} is longer than a storm, {STORM_MS}"));
    }
    let brokers = BROKERS.map(str::to_owned);
    let databases = DATABASES.map(str::to_owned);
    let applications = shape.application_hosts();
    let (may, least): (&[String], usize) = match class {
        FaultClass::PortError | FaultClass::LostAck | FaultClass::LateMessage => {
            return Err(format!("class: {} is drawn per port call: give it a rate in [rates]", class.id()));
        }
        FaultClass::Redelivery => (known, 0),
        FaultClass::LeaderLoss => (&brokers, 1),
        FaultClass::Failover => (&databases, 1),
        FaultClass::RebalanceStorm | FaultClass::ClockJump => (&applications, 1),
        FaultClass::Isolation
        | FaultClass::PartialCut
        | FaultClass::OneWayCut
        | FaultClass::Kill
        | FaultClass::Pause
        | FaultClass::Slow => (known, 1),
    };
    if *amount == 0 && *class == FaultClass::ClockJump {
        return Err(format!("amount: {} by 0 ms is none", class.id()));
    }
    if hosts.len() < least {
        return Err(format!("hosts: {} needs somebody to strike", class.id()));
    }
    match hosts.iter().find(|host| !may.contains(host)) {
        Some(host) => {
            Err(format!("hosts: {} cannot strike {host}; it may strike {}", class.id(), may.join(", ")))
        }
        None => Ok(()),
    }
}

/// Every host of a storm of this shape; there is an operator only where there are duties.
fn hosts(shape: &Shape, operations: &[Operation]) -> Vec<String> {
    let operator = operations.iter().any(Operation::is_duty).then_some(&OPERATOR);
    let single = BROKERS.iter().chain(&DATABASES).chain(&[PROVIDER, NOTIFIER]).chain(operator);
    let single = single.map(|name| (*name).to_owned());
    shape.application_hosts().into_iter().chain(shape.clients()).chain(single).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use stormglass_harness::{Profile, Seed, Suite};
    use toml::{Table, Value};

    use crate::OrderSuite;

    fn case() -> stormglass_harness::Case {
        OrderSuite.plan("checkout", Seed(1), Profile::Smoke)
    }

    #[test]
    fn what_a_seed_draws_is_fit_to_run() {
        for (scenario, seed) in
            OrderSuite.scenarios().iter().flat_map(|of| (0..30).map(move |seed| (of, seed)))
        {
            let case = OrderSuite.plan(scenario.name, Seed(seed), Profile::Smoke);
            OrderSuite.check(&case).unwrap_or_else(|misfit| panic!("{} {seed}: {misfit:?}", scenario.name));
        }
    }

    #[rstest]
    #[case::no_number(f64::NAN)]
    #[case::negative(-1.0)]
    #[case::more_than_always(7.0)]
    #[case::nothing_would_come_about(1.0)]
    fn rate_that_is_no_probability_is_refused(#[case] rate: f64) {
        let mut case = case();
        case.rates.late = rate;
        assert_eq!(OrderSuite.check(&case).unwrap_err().at, "rates.late");
    }

    #[rstest]
    #[case::after_the_storm("class = 'F6'\nat_ms = 999000\nhosts = ['orders-1']", "at_ms")]
    #[case::for_ever("class = 'F6'\nat_ms = 1\nfor_ms = 9223372036854775807\nhosts = ['orders-1']", "for_ms")]
    #[case::nobody("class = 'F6'\nat_ms = 1", "somebody")]
    #[case::leader_that_is_none("class = 'F11'\nat_ms = 1\nhosts = ['orders-1']", "kafka-1")]
    #[case::primary_that_is_none("class = 'F13'\nat_ms = 1\nhosts = ['orders-1']", "postgres-1")]
    #[case::drawn_per_call("class = 'F1'\nat_ms = 1\nhosts = ['orders-1']", "rate")]
    #[case::jump_of_nothing("class = 'F18'\nat_ms = 1\nhosts = ['orders-1']", "amount")]
    #[case::unknown_host("class = 'F6'\nat_ms = 1\nhosts = ['order-1']", "no host is called order-1")]
    fn fault_that_cannot_be_is_refused(#[case] fault: &str, #[case] says: &str) {
        let mut case = case();
        case.fault = vec![toml::from_str(fault).expect("a fault")];
        let misfit = OrderSuite.check(&case).unwrap_err();
        assert!(misfit.at.starts_with("fault[0]") && misfit.what.contains(says), "{misfit:?}");
    }

    #[rstest]
    #[case::gives_up_before_it_has_asked("attempts_max", 1.into(), "attempts_max")]
    #[case::holds_less_than_its_lanes_take("lanes", 64.into(), "buffer_records")]
    #[case::no_host("members", 0.into(), "1 to 64")]
    fn shape_that_no_worker_takes_is_refused(#[case] field: &str, #[case] value: Value, #[case] says: &str) {
        let mut case = case();
        case.cluster.insert(field.to_owned(), value);
        let misfit = OrderSuite.check(&case).unwrap_err();
        assert!(misfit.at.starts_with("cluster.") && misfit.what.contains(says), "{misfit:?}");
    }

    #[rstest]
    #[case::too_late("at_ms", Value::Integer(99_999_000), "nobody waits")]
    #[case::nobodys("client", Value::Integer(9), "clients")]
    fn operation_that_cannot_be_is_refused(#[case] field: &str, #[case] value: Value, #[case] says: &str) {
        let mut case = case();
        let first: &mut Table = &mut case.operation[0];
        first.insert(field.to_owned(), value);
        let misfit = OrderSuite.check(&case).unwrap_err();
        assert!(misfit.at == "operation[0]" && misfit.what.contains(says), "{misfit:?}");
    }
}

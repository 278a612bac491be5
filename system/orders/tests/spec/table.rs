//! Lifecycles as tables: a row per state, a column per event, a cell for what becomes of it.

/// Runs every cell of `table`. `step(state, event)` gives what it became, in the words of the table.
///
/// The first line names the events, each other line starts with its state.
#[track_caller]
pub fn check(table: &str, step: impl Fn(&str, &str) -> String) {
    let mut lines = table.lines().map(str::split_whitespace).filter(|line| line.clone().next().is_some());
    let events: Vec<&str> = lines.next().expect("a table has a head").collect();
    let mut wrong = Vec::new();
    for mut line in lines {
        let state = line.next().expect("blank lines are left out");
        let cells: Vec<&str> = line.collect();
        assert_eq!(cells.len(), events.len(), "{state}: a cell for each event");
        for (event, expected) in events.iter().zip(cells) {
            let became = step(state, event);
            if became != expected {
                wrong.push(format!("{state} × {event}: {became}, expected {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

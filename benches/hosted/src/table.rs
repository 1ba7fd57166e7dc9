//! The table: median and spread of the runs, and the goal.

use anyhow::{Context as _, Result};

/// Which way a number is good.
#[derive(Clone, Copy, Debug)]
pub enum Better {
    /// Such as files in a second.
    More,
    /// Such as milliseconds.
    Less,
}

struct Row {
    name: &'static str,
    unit: &'static str,
    better: Better,
    goal: Option<f64>,
    runs: Vec<f64>,
}

/// Rows in the order in which they were made.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds an empty row. Without a goal it is there to compare with.
    pub fn row(
        &mut self,
        name: &'static str,
        unit: &'static str,
        better: Better,
        goal: impl Into<Option<f64>>,
    ) {
        self.rows.push(Row {
            name,
            unit,
            better,
            goal: goal.into(),
            runs: Vec::new(),
        });
    }

    /// Adds a number to the row of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn add(&mut self, name: &str, number: f64) -> Result<()> {
        let row = self.rows.iter_mut().find(|row| row.name == name);
        row.with_context(|| format!("no row {name}"))?
            .runs
            .push(number);
        Ok(())
    }

    /// Prints the rows that have numbers.
    pub fn print(&self) {
        println!(
            "\n{:<42} {:>12} {:>24} {:>10}",
            "", "median", "least - most", "goal"
        );
        for row in self.rows.iter().filter(|row| !row.runs.is_empty()) {
            let mut sorted = row.runs.clone();
            sorted.sort_by(f64::total_cmp);
            let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
            let middle = sorted.len() / 2;
            let median = match sorted.len() % 2 {
                1 => sorted[middle],
                _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
            };
            let met = row.goal.map(|goal| match row.better {
                Better::More => median >= goal,
                Better::Less => median <= goal,
            });
            println!(
                "{:<42} {:>12} {:>24} {:>10}  {}",
                format!("{} ({})", row.name, row.unit),
                short(median),
                format!("{} - {}", short(least), short(most)),
                row.goal.map(short).unwrap_or_default(),
                match met {
                    Some(true) => "met",
                    Some(false) => "MISSED",
                    None => "",
                }
            );
        }
    }
}

/// Three digits that count.
fn short(number: f64) -> String {
    match number.abs() {
        0.0..10.0 => format!("{number:.2}"),
        10.0..100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

//! The state that all measurements of a run share.

use crate::bars::Bar;
use crate::environment::Environment;
use crate::options::Options;
use crate::server::Contestant;

/// Servers and results of a run.
pub(crate) struct Bench<'a> {
    pub options: &'a Options,
    pub environment: &'a Environment,
    /// Servers in the order of their turns: tcp-echo, the floor, then the others.
    pub contestants: Vec<Contestant>,
    pub bars: Vec<Bar>,
    /// Wrong bytes and dead servers, one line each.
    pub failures: Vec<String>,
}

impl Bench<'_> {
    /// Reports that a server is excluded from a case.
    pub(crate) fn exclude(&mut self, case: &str, server: &str, error: &str) {
        let line = format!("{case}: {server} is excluded: {error}");
        println!("void  {line}");
        self.failures.push(line);
    }
}

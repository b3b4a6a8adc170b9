//! Tests of the pure modules. The side-by-side itself is a program without a test harness.
#![allow(dead_code, reason = "its users are the program's other modules")]

mod bars;
mod cases;
mod measure;
mod options;
mod svg;
mod table;

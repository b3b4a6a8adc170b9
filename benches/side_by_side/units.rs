//! Tests of what decides and draws. The side-by-side itself is a program without a test harness.
#![allow(dead_code, reason = "its users are the program's other modules")]

mod bars;
mod cases;
mod measure;
mod svg;
mod table;
mod words;

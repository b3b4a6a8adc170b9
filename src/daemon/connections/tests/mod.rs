//! Tests of the table, of the life of a connection, and of the way of every byte.

mod drain;
mod life;
mod model;
mod script;
mod service_calls;
mod splice;
mod table;
mod timeouts;
mod world;

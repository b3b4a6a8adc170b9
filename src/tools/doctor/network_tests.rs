//! Tests of the checks of the network, each with one changed fact.

use super::super::findings::Level;
use super::super::fixtures::{assert_verdict, config, fine, missing, unreadable};
use super::*;

#[test]
fn the_kernel_limits_the_backlog() {
    for (backlog, somaxconn, level, text, advice) in [
        (128, 128, Level::Ok, "128 connections can wait for each of 2 workers", ""),
        (129, 128, Level::Warn, "--connection-backlog 129 is limited to 128", "somaxconn=129"),
        (65535, 4096, Level::Warn, "is limited to 4096", "sysctl -w net.core.somaxconn=65535"),
    ] {
        let facts = Facts { somaxconn: Ok(somaxconn), ..fine() };
        let config = config(&format!("--connection-backlog {backlog}"));
        assert_verdict(queue(&facts, &config), level, text, advice);
    }
}

#[test]
fn few_handshakes_matter_without_syn_cookies() {
    for (syn_backlog, syncookies, level, text, advice) in [
        (128, Ok(0), Level::Ok, "128 can be in progress", ""),
        (128, unreadable(), Level::Ok, "128 can be in progress", ""),
        (127, Ok(1), Level::Note, "fewer than --connection-backlog 128; SYN", "syn_backlog=128"),
        (127, Ok(2), Level::Note, "SYN cookies compensate", "syn_backlog=128"),
        (127, Ok(0), Level::Warn, "SYN cookies are off", "syn_backlog=128"),
    ] {
        let facts = Facts { syn_backlog: Ok(syn_backlog), syncookies, ..fine() };
        assert_verdict(handshakes(&facts, &config("")), level, text, advice);
    }
    let facts = Facts { syn_backlog: Ok(1), syncookies: unreadable(), ..fine() };
    assert!(handshakes(&facts, &config("")).is_err());
}

#[test]
fn migration_matters_to_several_daemons_only() {
    for (migrate_req, line, level, text, advice) in [
        (Ok(0), "", Level::Ok, "off, and not needed", ""),
        (Ok(1), "", Level::Ok, "on (", ""),
        (Ok(1), "--allow-shared-port", Level::Ok, "on (", ""),
        (Ok(0), "--allow-shared-port", Level::Note, "resets the connections", "tcp_migrate_req=1"),
        (missing(), "--allow-shared-port", Level::Ok, "not in this kernel", ""),
    ] {
        let facts = Facts { migrate_req, ..fine() };
        assert_verdict(migration(&facts, &config(line)), level, text, advice);
    }
}

#[test]
fn steering_that_does_not_work_is_a_warning() {
    let refused = || Err("Protocol not available".to_owned());
    for (steering_works, line, level, text, advice) in [
        (Ok(()), "", Level::Ok, "works (", ""),
        (Ok(()), "--allow-shared-port", Level::Note, "not used with --allow-shared-port", ""),
        (refused(), "", Level::Warn, "CBPF: Protocol not available)", "Linux 4.6"),
    ] {
        let facts = Facts { steering: steering_works, ..fine() };
        assert_verdict(steering(&facts, &config(line)), level, text, advice);
    }
}

#[test]
fn ipv6_matters_if_it_is_configured() {
    for (sockets, addresses, bindv6only, listen, level, text, advice) in [
        (true, Ok(1), Ok(0), "*", Level::Ok, "available", ""),
        (true, Ok(1), Ok(1), "*", Level::Ok, "bindv6only is on", ""),
        (true, Ok(1), missing(), "*", Level::Ok, "available", ""),
        (true, Ok(0), Ok(0), "*", Level::Note, "no interface has", "disable_ipv6=0"),
        (true, missing(), Ok(0), "[::1]", Level::Note, "no interface has", "disable_ipv6=0"),
        (true, Ok(0), Ok(0), "127.0.0.1", Level::Ok, "none is configured", ""),
        (false, missing(), missing(), "*", Level::Note, "* is 0.0.0.0", "--listen 0.0.0.0"),
        (false, missing(), missing(), "127.0.0.1", Level::Ok, "not configured", ""),
    ] {
        let facts = Facts { ipv6: Ipv6 { sockets, addresses, bindv6only }, ..fine() };
        let config = config(&format!("--listen {listen}"));
        assert_verdict(ipv6(&facts, &config), level, text, advice);
    }
    let mut facts = fine();
    facts.ipv6.addresses = unreadable();
    assert!(ipv6(&facts, &config("")).is_err());
}

#[test]
fn local_ports_may_be_too_few_or_in_the_way() {
    for (range, reserved, line, level, text, advice) in [
        ("32768\t60999", Ok(""), "", Level::Ok, "28232 connections from", ""),
        ("1024 65535", Ok("8000-8100"), "", Level::Ok, "64512 connections", ""),
        ("1024 65535", Ok("80,8090"), "", Level::Ok, "64512 connections", ""),
        ("1024 65535", Ok(""), "", Level::Note, "may take port 8090 before", "reserved_ports=8090"),
        ("1024 65535", Ok("80,9000-9010"), "", Level::Note, "port 8090", "=80,9000-9010,8090"),
        ("1024 65535", Err(()), "", Level::Note, "port 8090", "reserved_ports=8090"),
        (
            "9000 9000",
            Ok(""),
            "--max-concurrent-connections 1",
            Level::Note,
            "fewer than the 2",
            "--source-ip",
        ),
        ("32768 60999", Ok(""), "--max-concurrent-connections 14116", Level::Ok, "28232", ""),
        (
            "32768 60999",
            Ok(""),
            "--max-concurrent-connections 14117",
            Level::Note,
            "the 28234",
            "\"1024 65535\"",
        ),
        ("32768 60999", Ok(""), "--port 0", Level::Ok, "28232", ""),
    ] {
        let mut facts = fine();
        facts.ports.local = Ok(range.into());
        facts.ports.reserved = reserved.map(str::to_owned).or_else(|()| missing());
        assert_verdict(local_ports(&facts, &config(line)), level, text, advice);
    }
    for invalid in ["", "many", "1 65536"] {
        let mut facts = fine();
        facts.ports.local = Ok(invalid.into());
        let error = local_ports(&facts, &config("")).expect_err(invalid).to_string();
        assert!(error.ends_with("it is not a range of ports"), "{error}");
    }
}

#[test]
fn a_table_of_connections_may_be_too_small() {
    let table = |max, count, time_wait| Conntrack { max, count, time_wait };
    for (conntrack_facts, line, level, text, advice) in [
        (table(missing(), missing(), missing()), "", Level::Ok, "not tracked", ""),
        (table(Ok(262_144), Ok(144), Ok(120)), "", Level::Note, "more than 2183 new", "=1048576"),
        (table(Ok(1000), Ok(0), unreadable()), "", Level::Note, "for 120 s, so", "=4000"),
        (table(Ok(1000), Ok(2000), Ok(0)), "", Level::Note, "more than 0 new", "=4000"),
        (
            table(Ok(262_144), Ok(144), Ok(60)),
            "--max-concurrent-connections 131000",
            Level::Note,
            "more than 4366 new",
            "=1048576",
        ),
        (
            table(Ok(262_144), Ok(145), Ok(60)),
            "--max-concurrent-connections 131000",
            Level::Warn,
            "too few for the 262000 connections",
            "=524290",
        ),
    ] {
        let facts = Facts { conntrack: conntrack_facts, ..fine() };
        assert_verdict(conntrack(&facts, &config(line)), level, text, advice);
    }
    let facts = Facts { conntrack: table(Ok(1), unreadable(), Ok(1)), ..fine() };
    assert!(conntrack(&facts, &config("")).is_err());
}

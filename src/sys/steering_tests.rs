//! Tests of the program, run by a tiny interpreter, and of real groups, run by the kernel.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use socket2::{Domain, Socket, Type};

use super::*;

/// Returns the result of a program if the kernel's random number is `random`.
fn run(program: &[sock_filter], random: u32) -> u32 {
    const LOAD: u32 = BPF_LD | BPF_W | BPF_ABS;
    const MODULO: u32 = BPF_ALU | BPF_MOD | BPF_K;
    const ADD: u32 = BPF_ALU | BPF_ADD | BPF_K;
    const JUMP: u32 = BPF_JMP | BPF_JGE | BPF_K;
    const RETURN: u32 = BPF_RET | BPF_A;
    const RETURN_CONSTANT: u32 = BPF_RET | BPF_K;
    let (mut accumulator, mut next) = (0u32, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[next];
        next += 1;
        match u32::from(code) {
            LOAD => {
                assert_eq!(k as i32, SKF_AD_OFF + SKF_AD_RANDOM);
                accumulator = random;
            }
            MODULO => accumulator %= k,
            ADD => accumulator += k,
            JUMP => next += usize::from(if accumulator >= k { jt } else { jf }),
            RETURN => return accumulator,
            RETURN_CONSTANT => return k,
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}

/// Returns the results for as many successive random numbers as there are members.
fn spread(members: &[u16], first: u32) -> Vec<u32> {
    let program = program(members);
    (first..).take(members.len()).map(|random| run(&program, random)).collect()
}

#[test]
fn every_member_gets_its_share_and_nobody_else() {
    assert_eq!(spread(&[0], 0), [0]);
    assert_eq!(spread(&[0, 1, 2], 0), [0, 1, 2]);
    assert_eq!(spread(&[0, 2], 0), [0, 2]);
    assert_eq!(spread(&[3, 4, 9], 0), [3, 4, 9]);
    assert_eq!(spread(&[5, 1], 0), [1, 5]);
    assert_eq!(spread(&[u16::MAX], 0), [65535]);
}

#[test]
fn a_program_is_as_long_as_its_gaps_are_many() {
    assert_eq!(program(&[0, 1, 2, 3, 4, 5]).len(), 3);
    assert_eq!(program(&[0, 1, 4, 5]).len(), 5);
    assert_eq!(program(&[2, 2, 2]).len(), 5);
}

#[test]
fn without_members_nobody_is_named() {
    assert_eq!(run(&program(&[]), 7), NO_MEMBER);
}

proptest! {
    /// As 0, 1, 2, … lead to the members in order, n random numbers in a row always lead to each of
    /// the n members once: the shares are equal, whatever the members.
    #[test]
    fn shares_are_equal(
        members in prop::collection::btree_set(any::<u16>(), 1..MOST_MEMBERS),
        round in 0u32..1_000_000,
    ) {
        let members: Vec<u16> = members.into_iter().collect();
        let first = round * members.len() as u32;
        let expected: Vec<u32> = members.iter().copied().map(u32::from).collect();
        prop_assert_eq!(spread(&members, first), expected);
    }

    #[test]
    fn no_number_leads_elsewhere(
        members in prop::collection::vec(any::<u16>(), 1..50),
        random: u32,
    ) {
        let place = run(&program(&members), random);
        prop_assert!(members.iter().any(|&member| u32::from(member) == place));
    }

    #[test]
    fn the_kernel_takes_every_length(
        members in prop::collection::vec(any::<u16>(), 0..=MOST_MEMBERS),
    ) {
        prop_assert!(program(&members).len() <= libc::BPF_MAXINSNS as usize);
    }
}

/// A socket that may share its address, bound to it.
fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("socket");
    socket.set_reuse_port(true).expect("SO_REUSEPORT");
    socket.bind(&address.into()).expect("bind");
    socket
}

fn listener(address: SocketAddr) -> Socket {
    let socket = bound(address);
    socket.listen(256).expect("listen");
    socket
}

/// Returns an unused address and the bound socket that reserves it.
fn free_address() -> (Socket, SocketAddr) {
    let reservation = bound((Ipv4Addr::LOCALHOST, 0).into());
    let address = reservation.local_addr().expect("address").as_socket().expect("IPv4");
    (reservation, address)
}

fn group<const MEMBERS: usize>() -> (SocketAddr, [Socket; MEMBERS]) {
    let (_claim, address) = free_address();
    (address, [(); MEMBERS].map(|()| listener(address)))
}

/// Connects 60 times and counts how many each listener gets.
fn connect_to<const MEMBERS: usize>(
    address: SocketAddr,
    members: [&Socket; MEMBERS],
) -> [u32; MEMBERS] {
    const CONNECTIONS: u32 = 60;
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| TcpStream::connect(address)).collect();
    assert!(clients.iter().all(Result::is_ok));
    let mut counts = [0; MEMBERS];
    let deadline = Instant::now() + Duration::from_secs(10);
    while counts.iter().sum::<u32>() < CONNECTIONS {
        assert!(Instant::now() < deadline, "only {counts:?} have arrived");
        for (member, count) in members.iter().zip(&mut counts) {
            while member.accept().is_ok() {
                *count += 1;
            }
        }
    }
    counts
}

#[test]
fn connections_go_where_they_are_steered() {
    let (address, [a, b, c]) = group();
    let group = b.as_fd();
    steer(group, &[0, 2]).expect("steer");
    let counts = connect_to(address, [&a, &b, &c]);
    assert!(counts[0] > 0 && counts[1] == 0 && counts[2] > 0, "{counts:?}");
    steer(group, &[0, 1, 2]).expect("steer to all");
    let counts = connect_to(address, [&a, &b, &c]);
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
    steer(group, &[1]).expect("steer to one");
    assert_eq!(connect_to(address, [&a, &b, &c]), [0, 60, 0]);
    unsteer(group).expect("unsteer");
    unsteer(group).expect("unsteer again");
    let counts = connect_to(address, [&a, &b, &c]);
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
}

#[test]
fn it_can_be_tried_out_by_itself() {
    probe().expect("this kernel has it");
}

#[test]
fn the_last_member_moves_into_the_place_of_one_that_is_closed() {
    let (address, [a, b, c]) = group();
    let copy_of_a = a.try_clone().expect("duplicate");
    drop(a);
    steer(b.as_fd(), &[0]).expect("steer");
    // Still a member: somebody holds it.
    assert_eq!(connect_to(address, [&copy_of_a, &b, &c]), [60, 0, 0]);
    drop(copy_of_a);
    assert_eq!(connect_to(address, [&b, &c]), [0, 60]);
    steer(b.as_fd(), &[1]).expect("steer");
    assert_eq!(connect_to(address, [&b, &c]), [60, 0]);
    let d = listener(address);
    steer(b.as_fd(), &[2]).expect("steer");
    assert_eq!(connect_to(address, [&b, &c, &d]), [0, 0, 60]);
}

#[test]
fn places_follow_the_order_of_listen_not_of_bind() {
    let (_claim, address) = free_address();
    let (a, b) = (bound(address), bound(address));
    b.listen(256).expect("listen");
    a.listen(256).expect("listen");
    b.listen(255).expect("listen again");
    steer(a.as_fd(), &[0]).expect("steer");
    assert_eq!(connect_to(address, [&a, &b]), [0, 60]);
}

#[test]
fn a_place_that_nobody_has_leaves_it_to_the_hash() {
    let (address, [a, b, c]) = group();
    for members in [&[3][..], &[]] {
        steer(a.as_fd(), members).expect("steer");
        let counts = connect_to(address, [&a, &b, &c]);
        assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
    }
}

#[test]
fn nothing_falls_in_between_while_steering_changes() {
    let (address, [a, b, c]) = group();
    steer(a.as_fd(), &[0]).expect("steer");
    let counts = thread::scope(|scope| {
        let client = || (0..5).map(|_| connect_to(address, [&a, &b, &c])).collect::<Vec<_>>();
        let client = scope.spawn(client);
        while !client.is_finished() {
            steer(a.as_fd(), &[0]).expect("steer");
            steer(a.as_fd(), &[2]).expect("steer");
        }
        client.join().expect("counts")
    });
    assert!(counts.iter().all(|&[_, b, _]| b == 0), "{counts:?}");
}

#[test]
fn what_is_not_in_a_group_cannot_be_steered() {
    let (reservation, address) = free_address();
    let listener = listener(address);
    let refusal = |socket: &Socket, members: &[u16]| {
        steer(socket.as_fd(), members).expect_err("refused").to_string()
    };
    assert_eq!(refusal(&reservation, &[0]), "only a listener can be steered");
    assert_eq!(refusal(&listener, &[0; MOST_MEMBERS + 1]), "too many members to steer to");
    let alone = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    alone.listen(1).expect("listen");
    let invalid = Some(libc::EINVAL);
    assert_eq!(steer(alone.as_fd(), &[0]).expect_err("refused").raw_os_error(), invalid);
    assert_eq!(unsteer(alone.as_fd()).expect_err("refused").raw_os_error(), invalid);
}

#[test]
fn the_longest_program_is_taken() {
    let (_, [a]) = group();
    let apart: Vec<u16> = (0..MOST_MEMBERS as u16).map(|rank| 2 * rank + 1).collect();
    steer(a.as_fd(), &apart).expect("steer");
}

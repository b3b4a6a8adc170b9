//! The numbers live on, belong together, and harm nobody.

use super::*;

#[test]
fn the_next_image_finds_the_numbers_and_leaves_taken_seats_alone() {
    let mut before = Statistics::new().expect("memory");
    let seat = before.take_seat().unwrap();
    before.seat(seat).set(Word::Accepted, 7);
    let file = before.file().try_clone().expect("descriptor");
    let mut after = Statistics::resume(file, &[seat]).expect("memory");
    assert_eq!(after.seat(seat).get(Word::Accepted), 7);
    assert_ne!(after.take_seat(), Some(seat));
}

#[test]
fn siblings_see_who_is_listed_and_what_is_on_its_way() {
    let mut statistics = Statistics::new().expect("memory");
    let seat = statistics.take_seat().unwrap();
    statistics.list(3, Some(seat));
    statistics.seat(seat).set(Word::Connections, 5);
    statistics.seat(seat).pass();
    let seen: Vec<_> =
        statistics.siblings().iter().map(|(slot, seat)| (slot, seat.load())).collect();
    assert_eq!(seen, [(3, 6)]);
    statistics.list(3, None);
    assert_eq!(statistics.siblings().iter().count(), 0);
}

#[test]
fn foreign_memory_is_refused() {
    let file = std::fs::File::open("/dev/null").expect("open");
    assert!(Statistics::resume(file.into(), &[]).is_err());
}

#[test]
fn a_seat_is_given_out_once_and_comes_back_clean() {
    let mut statistics = Statistics::new().expect("memory");
    let (one, other) = (statistics.take_seat().unwrap(), statistics.take_seat().unwrap());
    assert_ne!(one, other);
    statistics.seat(one).add(Word::Accepted, 3);
    statistics.seat(other).add(Word::Accepted, 4);
    assert_eq!(statistics.seat(one).get(Word::Accepted), 3);
    statistics.free_seat(one);
    assert_eq!(statistics.take_seat(), Some(one));
    assert_eq!(statistics.seat(one).get(Word::Accepted), 0);
    assert_eq!(statistics.seat(other).get(Word::Accepted), 4);
}

//! Work that several callers share, and that outlives them for a while.
//!
//! A flight is a task of its own: its callers wait for it and can leave at any time. When the last
//! of them has left, it goes on for the time that it may linger, so that a caller who comes back
//! finds the work done, or joins it; then it is dropped, which cancels it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::error::chain;

/// The flights of a process, by what they bring.
#[derive(Debug, Clone)]
pub(crate) struct Flights<K>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    linger: Duration,
    under_way: Mutex<HashMap<K, Arc<Flight>>>,
}

/// What callers and the flight's task know of each other.
#[derive(Debug)]
struct Flight {
    /// Every caller that waits holds a receiver.
    state: watch::Sender<State>,
    /// How many callers there have been.
    boarded: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay,
    Ended(End),
}

/// What those who joined a flight are told of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// What it brings is there.
    Landed,
    /// There was no space left, which is so for everybody.
    OutOfSpace,
    /// It failed for a reason that may be its leader's own.
    Failed,
}

/// What the end of a flight depends on when it fails.
pub(crate) trait Failure: std::error::Error + Send + 'static {
    /// Whether there was no space left.
    fn is_disk_full(&self) -> bool;
}

/// A caller's part in a flight.
pub(crate) enum Boarding<K: Key> {
    /// Nobody was at it: the caller is the one to start.
    Lead(Departure<K>),
    /// Somebody else is at it.
    Join(Passenger),
}

/// Whatever tells one piece of work from another.
pub(crate) trait Key: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static {}

impl<K: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static> Key for K {}

impl<K: Key> Flights<K> {
    /// No flights yet. One that nobody waits for ends after `linger`.
    pub(crate) fn new(linger: Duration) -> Self {
        Self(Arc::new(Inner {
            linger,
            under_way: Mutex::default(),
        }))
    }

    /// Joins the flight that brings `key`, or prepares it.
    pub(crate) fn board(&self, key: K) -> Boarding<K> {
        let mut under_way = self.0.lock();
        match under_way.entry(key) {
            Entry::Occupied(entry) => Boarding::Join(entry.get().board()),
            Entry::Vacant(entry) => {
                let flight = Arc::new(Flight::new());
                let key = entry.key().clone();
                entry.insert(Arc::clone(&flight));
                Boarding::Lead(Departure::new(self, key, flight))
            }
        }
    }

    /// Whether a flight that brings `key` is under way.
    pub(crate) fn is_under_way(&self, key: &K) -> bool {
        self.0.lock().contains_key(key)
    }

    /// Prepares a flight that brings `key`, whoever else is at it.
    pub(crate) fn lead(&self, key: K) -> Departure<K> {
        let flight = Arc::new(Flight::new());
        self.0.lock().insert(key.clone(), Arc::clone(&flight));
        Departure::new(self, key, flight)
    }
}

impl<K> Inner<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<Flight>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    fn new() -> Self {
        Self {
            state: watch::Sender::new(State::UnderWay),
            boarded: AtomicU64::new(0),
        }
    }

    fn board(&self) -> Passenger {
        self.boarded.fetch_add(1, Ordering::Relaxed);
        Passenger(self.state.subscribe())
    }
}

/// A caller that waits for a flight, as long as this value lives.
#[derive(Debug)]
pub(crate) struct Passenger(watch::Receiver<State>);

impl Passenger {
    /// Waits for the end.
    pub(crate) async fn end(mut self) -> End {
        match self.0.wait_for(|state| *state != State::UnderWay).await {
            Ok(state) => match *state {
                State::Ended(end) => end,
                State::UnderWay => End::Failed,
            },
            // The flight is gone without a word.
            Err(_closed) => End::Failed,
        }
    }
}

/// A flight that is about to start; dropped, it is off.
pub(crate) struct Departure<K: Key> {
    landing: Landing<K>,
    passenger: Passenger,
}

impl<K: Key> Departure<K> {
    fn new(flights: &Flights<K>, key: K, flight: Arc<Flight>) -> Self {
        let passenger = flight.board();
        let landing = Landing {
            inner: Arc::clone(&flights.0),
            key,
            flight,
            end: End::Failed,
        };
        Self { landing, passenger }
    }

    /// Runs `work` in a task of its own and waits for it. A panic in it goes on in this caller.
    pub(crate) async fn fly<T, E>(
        self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: Failure,
    {
        let Self { landing, passenger } = self;
        let result = tokio::spawn(attend(landing, Box::pin(work))).await;
        drop(passenger);
        match result {
            Ok(Some(result)) => result,
            // Only flights that nobody waits for are given up, and this caller does.
            Ok(None) => std::future::pending().await,
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down.
                Err(_cancelled) => std::future::pending().await,
            },
        }
    }
}

/// Runs `work` until it ends or nobody wants it any more.
async fn attend<K: Key, T, E: Failure>(
    mut landing: Landing<K>,
    work: Pin<Box<impl Future<Output = Result<T, E>>>>,
) -> Option<Result<T, E>> {
    tokio::select! {
        biased;
        result = work => {
            landing.end = match &result {
                Ok(_) => End::Landed,
                Err(error) if error.is_disk_full() => End::OutOfSpace,
                Err(_) => End::Failed,
            };
            if let Err(error) = &result
                && landing.flight.state.receiver_count() == 0
            {
                let (key, error) = (&landing.key, chain(error));
                tracing::warn!(?key, error, "work that its callers left has failed");
            }
            Some(result)
        }
        () = landing.given_up() => {
            tracing::info!(key = ?landing.key, "given up: nobody has come back for it");
            None
        }
    }
}

/// The end of a flight, however it comes: nobody can board any more, and whoever waits is told.
struct Landing<K: Key> {
    inner: Arc<Inner<K>>,
    key: K,
    flight: Arc<Flight>,
    end: End,
}

impl<K: Key> Landing<K> {
    /// Waits until nobody has waited for the flight for as long as it may linger. From then on
    /// nobody can.
    async fn given_up(&self) {
        let Self { inner, flight, .. } = self;
        loop {
            flight.state.closed().await;
            let boarded = flight.boarded.load(Ordering::Relaxed);
            tokio::time::sleep(inner.linger).await;
            // Boarding takes this lock, too.
            let mut under_way = inner.lock();
            let is_alone = flight.state.receiver_count() == 0
                && flight.boarded.load(Ordering::Relaxed) == boarded;
            if is_alone {
                self.forget(&mut under_way);
                return;
            }
        }
    }

    fn forget(&self, under_way: &mut HashMap<K, Arc<Flight>>) {
        let is_this = |flight: &Arc<Flight>| Arc::ptr_eq(flight, &self.flight);
        if under_way.get(&self.key).is_some_and(is_this) {
            under_way.remove(&self.key);
        }
    }
}

impl<K: Key> Drop for Landing<K> {
    fn drop(&mut self) {
        self.forget(&mut self.inner.lock());
        self.flight.state.send_replace(State::Ended(self.end));
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    #[derive(Debug, PartialEq, thiserror::Error)]
    #[error("lost")]
    struct Lost;

    impl Failure for Lost {
        fn is_disk_full(&self) -> bool {
            false
        }
    }

    #[derive(Debug, PartialEq, thiserror::Error)]
    #[error("full")]
    struct Full;

    impl Failure for Full {
        fn is_disk_full(&self) -> bool {
            true
        }
    }

    fn lead(flights: &Flights<&'static str>) -> Departure<&'static str> {
        match flights.board("layer") {
            Boarding::Lead(departure) => departure,
            Boarding::Join(_) => panic!("somebody is at it"),
        }
    }

    fn join(flights: &Flights<&'static str>) -> Passenger {
        match flights.board("layer") {
            Boarding::Lead(_) => panic!("nobody is at it"),
            Boarding::Join(passenger) => passenger,
        }
    }

    fn flights(linger: u64) -> Flights<&'static str> {
        Flights::new(Duration::from_millis(linger))
    }

    #[tokio::test]
    async fn whoever_comes_while_it_is_under_way_joins_and_is_told_the_end() {
        told(Ok::<_, Lost>(7), End::Landed).await;
        told(Err(Lost), End::Failed).await;
        told(Err(Full), End::OutOfSpace).await;
    }

    /// That a flight with this `outcome` has this `end` for those who joined it.
    async fn told<E: Failure>(outcome: Result<i32, E>, end: End) {
        let flights = flights(0);
        let is_landed = outcome.is_ok();
        let (finish, finished) = oneshot::channel();
        let work = async move { finished.await.unwrap_or_else(|_gone| panic!("a defect")) };
        let leading = tokio::spawn(lead(&flights).fly(work));
        assert!(flights.is_under_way(&"layer"));
        let passengers = [join(&flights), join(&flights)].map(Passenger::end);
        assert!(finish.send(outcome).is_ok());
        assert_eq!(leading.await.unwrap().is_ok(), is_landed);
        for passenger in passengers {
            assert_eq!(passenger.await, end);
        }
        assert!(!flights.is_under_way(&"layer"));
        drop(lead(&flights));
    }

    #[tokio::test]
    async fn a_flight_outlives_its_callers_for_as_long_as_it_may_linger() {
        for (linger, back_after, is_there) in [(60_000, 50, true), (50, 500, false), (0, 50, false)]
        {
            let flights = flights(linger);
            let work = async {
                sleep(Duration::from_millis(800)).await;
                Ok::<_, Lost>(())
            };
            let a_moment = Duration::from_millis(10);
            let gone = timeout(a_moment, lead(&flights).fly(work)).await;
            assert!(gone.is_err());
            sleep(Duration::from_millis(back_after)).await;
            let case = format!("{linger} {back_after}");
            match flights.board("layer") {
                Boarding::Join(passenger) => {
                    assert!(is_there, "{case}");
                    assert_eq!(passenger.end().await, End::Landed, "{case}");
                }
                Boarding::Lead(_) => assert!(!is_there, "{case}"),
            }
        }
    }

    #[tokio::test]
    async fn every_visit_starts_the_time_to_linger_anew() {
        let flights = flights(300);
        let began = Instant::now();
        let (held, dropped) = oneshot::channel::<()>();
        let work = async {
            let _held_as_long_as_the_work_lives = held;
            pending::<Result<(), Lost>>().await
        };
        let a_moment = Duration::from_millis(10);
        let gone = timeout(a_moment, lead(&flights).fly(work)).await;
        assert!(gone.is_err());
        sleep(Duration::from_millis(100)).await;
        drop(join(&flights));
        assert!(dropped.await.is_err(), "the work is dropped at last");
        // The visit fell in a time of lingering, which then did not count.
        assert!(began.elapsed() >= Duration::from_millis(600));
        drop(lead(&flights));
    }

    #[tokio::test]
    async fn a_panic_is_the_callers_and_the_flight_is_over() {
        let flights = flights(0);
        let work = async { panic!("a defect") };
        let leading = tokio::spawn(lead(&flights).fly::<(), Lost>(work));
        let passenger = join(&flights);
        assert!(leading.await.unwrap_err().is_panic());
        assert_eq!(passenger.end().await, End::Failed);
        drop(lead(&flights));
    }

    #[tokio::test]
    async fn a_departure_that_does_not_take_place_holds_up_nobody() {
        let flights = flights(60_000);
        let departure = lead(&flights);
        let passenger = join(&flights);
        drop(departure);
        assert_eq!(passenger.end().await, End::Failed);
        drop(lead(&flights));
    }

    #[tokio::test]
    async fn a_second_flight_for_the_same_takes_the_place_of_the_first() {
        let flights = flights(60_000);
        let first = lead(&flights);
        let second = flights.lead("layer");
        let passenger = join(&flights);
        drop(first);
        assert_eq!(second.fly(async { Ok::<_, Lost>(1) }).await, Ok(1));
        assert_eq!(passenger.end().await, End::Landed);
    }
}

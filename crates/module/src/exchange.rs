//! What modules of one broker hand each other without a message.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Offers of modules to the other modules of their broker, one a type.
///
/// Services are reached by messages; an offer is for what would lose by that, such as a digest
/// that is known already. Whoever takes one has to do without it as well: the module that made it
/// may be gone, or be another program.
#[derive(Default)]
pub struct Exchange {
    offers: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
}

impl Exchange {
    /// Makes an offer, in place of an earlier one of the type.
    pub fn offer<T: 'static>(&self, value: T) {
        self.offers
            .borrow_mut()
            .insert(TypeId::of::<T>(), Rc::new(value));
    }

    /// Takes an offer back.
    pub fn withdraw<T: 'static>(&self) {
        self.offers.borrow_mut().remove(&TypeId::of::<T>());
    }

    /// What is offered, if anything.
    pub fn get<T: Clone + 'static>(&self) -> Option<T> {
        let offers = self.offers.borrow();
        offers.get(&TypeId::of::<T>())?.downcast_ref().cloned()
    }
}

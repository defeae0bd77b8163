// libenclave-malloc.so exports malloc(3)'s functions and one symbol of its own, by which
// libenclave.so finds it (see CEnclaveInternal.h). There is nothing here to call.

//! Every RPC and event of the system, one type each.

// Session: the AttentionSession of one sequence as Python holds it. Calls of several threads with
// one session go one after another.
#ifndef PYTHON_CORE_SESSION_H_
#define PYTHON_CORE_SESSION_H_

#include <mutex>

#include "sparse_attention/research_attention/attention_session.h"

namespace sparse_attention {

struct Session {
  std::mutex mutex;  // guards what follows
  AttentionSession session;
};

}  // namespace sparse_attention

#endif  // PYTHON_CORE_SESSION_H_

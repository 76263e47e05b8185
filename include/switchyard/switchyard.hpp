// The whole library.
#pragma once

#include "switchyard/activation.hpp"
#include "switchyard/balance.hpp"
#include "switchyard/cpu.hpp"
#include "switchyard/error.hpp"
#include "switchyard/experts.hpp"
#include "switchyard/layer.hpp"
#include "switchyard/model.hpp"
#include "switchyard/plan.hpp"
#include "switchyard/probe.hpp"
#include "switchyard/record.hpp"
#include "switchyard/route.hpp"
#include "switchyard/tensor_file.hpp"
#include "switchyard/threads.hpp"
#include "switchyard/types.hpp"
#include "switchyard/version.hpp"
#include "switchyard/workspace.hpp"

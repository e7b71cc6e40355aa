// Which answer of several counts, and where buffers differ.
#include "block/filters/quorum_vote.h"

#include <gtest/gtest.h>

#include "block/filters/compare_buffers.h"

namespace blockbed {
namespace {

class Copies {
 public:
  explicit Copies(std::vector<std::string> texts) : texts_(std::move(texts)) {
    for (std::string& text : texts_) lists.emplace_back(text.data(), text.size());
  }
  std::vector<IoVector> lists;

 private:
  std::vector<std::string> texts_;
};

TEST(QuorumVote, TheMostVotesWinAndTheLastOfEqualOnes) {
  EXPECT_EQ(count_versions(Copies({"b", "a", "a"}).lists).winner(), 1u);
  const QuorumVersions tie = count_versions(Copies({"a", "b", "b", "a"}).lists);
  EXPECT_EQ(tie.winner(), 1u);
  EXPECT_EQ(tie.of, (std::vector<std::size_t>{0, 1, 1, 0}));
  EXPECT_EQ(tie.votes, (std::vector<std::size_t>{2, 2}));
  EXPECT_FALSE(tie.unanimous());
  EXPECT_TRUE(count_versions(Copies({"a", "a"}).lists).unanimous());
  EXPECT_TRUE(count_versions(Copies({"a"}).lists).unanimous());
}

TEST(QuorumVote, TheCommonestErrorWinsAndTheLastOfEqualOnes) {
  using Results = std::vector<Result<void>>;
  EXPECT_EQ(vote_on_errors(Results{{}, io_error(EIO)}).number(), EIO);
  EXPECT_EQ(vote_on_errors(Results{io_error(EIO), io_error(ENOSPC), io_error(ENOSPC)}).number(),
            ENOSPC);
  EXPECT_EQ(vote_on_errors(Results{io_error(ENOSPC), {}, io_error(EIO)}).number(), EIO);
  EXPECT_EQ(
      vote_on_errors(Results{io_error(EIO), io_error(ENOSPC), io_error(ENOSPC), io_error(EIO)})
          .number(),
      ENOSPC);
}

TEST(CompareBuffers, RangesNeedNotBeTheSame) {
  std::string text = "abcdefgh", same = text, other = "abcdefGh";
  IoVector pieces(text.data(), 3);
  pieces.append(text.data() + 3, 1);
  pieces.append(text.data() + 4, 4);
  EXPECT_EQ(first_difference(pieces, IoVector(same.data(), 8)), std::nullopt);
  EXPECT_EQ(first_difference(pieces, IoVector(other.data(), 8)), 6u);
  EXPECT_EQ(first_difference(IoVector(other.data(), 8), pieces), 6u);
  EXPECT_EQ(first_difference(IoVector(), IoVector()), std::nullopt);
}

}  // namespace
}  // namespace blockbed
